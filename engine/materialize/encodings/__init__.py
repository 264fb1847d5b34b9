"""How a weight is stored: the table."""

from __future__ import annotations

from engine.materialize.encodings import plain

ENCODINGS = {row.name: row for row in (plain.ENCODING,)}
"""Every encoding by its name."""
