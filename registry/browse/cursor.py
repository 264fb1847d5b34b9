"""Cursors of `list`: the sort key of one row and the list it belongs to, as one opaque word."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.browse.filters import ListQuery

KeyValue = str | int | float
_LARGEST = 2**63
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # one for all rows: making it costs more than using it


def encode_cursor(mark: str, key: Sequence[KeyValue]) -> str:
    """The cursor of the row with this sort key, in the list with this mark."""
    content = _ENCODE([mark, *key])
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_cursor(query: ListQuery, kinds: Sequence[type[KeyValue]]) -> tuple[KeyValue, ...] | None:
    """The sort key after which the page begins, None for the first page; UsageError for another list's cursor."""
    if query.cursor is None:
        return None
    mark, *key = _content(query.cursor)
    if mark != mark_of(query):
        raise UsageError(
            "this cursor belongs to a list with other filters or another order",
            hint="repeat the filters and the sort key that the cursor came from, or leave --cursor out",
        )
    if len(key) != len(kinds) or not all(_fits(value, kind) for value, kind in zip(key, kinds, strict=True)):
        raise _malformed(query.cursor)
    return tuple(key)


def mark_of(query: ListQuery) -> str:
    """What makes two pages one list: everything but where the page starts and how long it is."""
    whole = dataclasses.replace(query, cursor=None, limit=0)
    return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]


def _content(cursor: str) -> list[KeyValue]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        content = json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        raise _malformed(cursor) from None
    if not isinstance(content, list) or not content:
        raise _malformed(cursor)
    return content


def _fits(value: object, kind: type[KeyValue]) -> bool:
    if isinstance(value, bool):
        return False
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, int):
        return -_LARGEST <= value < _LARGEST
    return kind is float and isinstance(value, float) and math.isfinite(value)


def _malformed(cursor: str) -> UsageError:
    return UsageError(f"{cursor[:120]!r} is not a cursor: pass on the cursor of the last row as it was printed")
