"""How a weight is stored: the table."""

from __future__ import annotations

from engine.materialize.encodings import fourbit, int8, plain

ENCODINGS = {row.name: row for row in (plain.ENCODING, fourbit.NF4, fourbit.FP4, int8.INT8)}
"""Every encoding by its name."""
