"""JSON with one encoding per value: what is written is canonical, what is read must say exactly one thing."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from registry.errors import UsageError
from registry.values.digests import is_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
_LARGEST = 2**63 - 1


def canonical_json(value: object) -> bytes:
    """UTF-8, keys sorted, no spaces, no NaN: equal values are equal bytes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def parse(content: bytes, what: str) -> Any:
    """The value; UsageError, which begins with `what`, for a key given twice, NaN, or what is no JSON in UTF-8."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what}: not readable as JSON: {error}") from None


def parse_canonical(content: bytes, what: str) -> Any:
    """Like `parse`, and UsageError for any other bytes than `canonical_json` gives, and for the character NUL."""
    value = parse(content, what)
    try:
        same = canonical_json(value) == content
    except (ValueError, RecursionError):
        same = False
    if not same:
        refuse(what, "is not in canonical form")
    if b"\\u0000" in content:
        refuse(what, "has a NUL character, which no database keeps")
    return value


def expect_object(value: object, keys: set[str], what: str, *, more: bool = False) -> dict[str, Any]:
    """An object of these keys; with `more`, of others beside them."""
    if not isinstance(value, dict) or not keys <= value.keys() or (not more and keys != value.keys()):
        refuse(what, f"expected an object of {', '.join(sorted(keys))}")
    return value


def check_schema(document: Mapping[str, Any], what: str) -> None:
    """UsageError for a schema that is not the one we read."""
    if document["schema"] != SCHEMA or isinstance(document["schema"], bool):
        refuse(what, f"schema {document['schema']!r}, this version reads {SCHEMA}")


def is_digest_text(value: object) -> bool:
    """Whether this is the text of a whole digest."""
    return isinstance(value, str) and is_digest(value)


def is_count(value: object) -> bool:
    """Whether this is a whole number from 0 that a database keeps."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def is_number(value: object) -> bool:
    """Whether this is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e308 and math.isfinite(value)


def is_text(value: object, longest: int) -> bool:
    """Whether this is a text that a column of `longest` characters keeps, or null."""
    return value is None or (isinstance(value, str) and len(value) <= longest)


def refuse(what: str, reason: str) -> NoReturn:
    """Raises UsageError."""
    raise UsageError(f"{what}: {reason}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
