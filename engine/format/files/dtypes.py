"""The floating dtypes that factors can have, under safetensors' names."""

from __future__ import annotations

READABLE = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Dtypes that a merge reads factors in."""
