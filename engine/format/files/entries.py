"""Parses the JSON of a safetensors header by the rules of the library's parser (serde_json with buffered entries).

Those rules differ from Python's `json`: no NaN, no number beyond a double, no lone surrogate, 127 levels at most; a
tensor name may repeat (the last wins) while a field of an entry and `__metadata__` may not; an entry may also be the
array [dtype, shape, offsets] and a dtype the object {"F32": null}.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from engine.format.files.tensors import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Container

MAX_VALUES = 8_000_000
MAX_DEPTH = 127

_FIELDS = ("dtype", "shape", "data_offsets")
_ENTRY_DEPTH = 2  # levels open around a value inside a tensor's entry
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)

Pairs = tuple[tuple[str, Any], ...]
"""A JSON object with every pair it was written with; arrays stay lists, so the two are told apart by type."""


class Broken(Exception):  # noqa: N818 - carries a verdict from the parser to the reader, which knows the path
    """A header is wrong; becomes a HeaderError where the path is known."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def parse_entries(text: bytes, dtypes: Container[str]) -> tuple[list[TensorInfo], dict[str, str]]:
    """The tensors (one per name, unsorted, layout unchecked) and the metadata of a header's JSON.

    Raises Broken: the library would reject the text.
    """
    document = _load(_decode(text))
    if not isinstance(document, tuple):
        raise Broken("not-an-object", "the header is no JSON object")
    entries: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None
    for name, value in document:
        if name != "__metadata__":
            entries[name] = _entry(name, value, dtypes)
        elif metadata is not None:
            raise Broken("duplicate-metadata", "__metadata__ stands twice")
        else:
            metadata = _metadata(value)
    return list(entries.values()), metadata or {}


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken("not-utf8", f"byte {error.start} of the header is no UTF-8") from None
    if text.count("{") + text.count("[") + text.count(",") > MAX_VALUES:
        raise Broken("too-many-values", f"the header holds more than {MAX_VALUES} JSON values")
    if "\\u" in text:
        _check_surrogates(text)
    return text


def _check_surrogates(text: str) -> None:
    expected_at = -1  # where the low half of a pair must stand
    for match in _ESCAPE.finditer(text):
        unit = int(match[1], 16) if match[1] else 0
        low = 0xDC00 <= unit <= 0xDFFF
        if low != (match.start() == expected_at) or (expected_at >= 0 and not low):
            raise Broken("lone-surrogate", f"lone surrogate escape at character {match.start()}")
        expected_at = match.end() if 0xD800 <= unit <= 0xDBFF else -1
    if expected_at >= 0:
        raise Broken("lone-surrogate", "lone surrogate escape at the end")


def _load(text: str) -> Any:
    # the library reads -0 as a double, which is no size; the hook costs time, so only where such a thing may stand
    integer = _integer if "-0" in text else None
    try:
        return json.loads(
            text, object_pairs_hook=tuple, parse_constant=_refuse_constant, parse_float=_finite, parse_int=integer
        )
    except RecursionError:
        raise Broken("too-deep", f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise Broken("bad-json", str(error)[:200]) from None


def _refuse_constant(literal: str) -> float:
    raise Broken("bad-number", f"{literal} is no JSON number")


def _integer(literal: str) -> int | float:
    return -0.0 if literal == "-0" else int(literal)


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise Broken("bad-number", f"number {literal[:40]} is out of range")
    return value


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, tuple):
        raise Broken("bad-metadata", "__metadata__ is no object")
    for key, text in value:
        if not isinstance(text, str):
            raise Broken("bad-metadata", f"__metadata__ value of {key[:80]!r} is no string")
    return dict(value)


def _entry(name: str, value: Any, dtypes: Container[str]) -> TensorInfo:
    if isinstance(value, tuple):
        dtype, shape, offsets = _fields(name, value)
    elif isinstance(value, list) and len(value) == len(_FIELDS):
        dtype, shape, offsets = value
    else:
        raise Broken("bad-entry", f"the entry of {name[:80]!r} is no object of {', '.join(_FIELDS)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise Broken("bad-offsets", f"data_offsets of {name[:80]!r} are not two non-negative 64-bit integers")
    if not _sizes(shape):
        raise Broken("bad-shape", f"shape of {name[:80]!r} is no list of non-negative 64-bit integers")
    return TensorInfo(name, _dtype(name, dtype, dtypes), tuple(shape), offsets[0], offsets[1])


def _fields(name: str, pairs: Pairs) -> list[Any]:
    if tuple(key for key, _ in pairs) == _FIELDS:
        return [value for _, value in pairs]
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in _FIELDS:
            _check_unused(value)
        elif key in found:
            raise Broken("duplicate-field", f"{key} of {name[:80]!r} stands twice")
        else:
            found[key] = value
    for key in _FIELDS:
        if key not in found:
            raise Broken("missing-field", f"{name[:80]!r} has no {key}")
    return [found[key] for key in _FIELDS]


def _sizes(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for size in value:  # noqa: SIM110 (a generator takes twice the time)
        if type(size) is not int or not 0 <= size < 2**64:
            return False
    return True


def _dtype(name: str, value: Any, dtypes: Container[str]) -> str:
    if isinstance(value, tuple) and len(value) == 1 and value[0][1] is None:
        value = value[0][0]
    if not isinstance(value, str) or value not in dtypes:
        raise Broken("unknown-dtype", f"dtype {str(value)[:40]!r} of {name[:80]!r} is unknown")
    return value


def _check_unused(value: Any) -> None:
    """An unknown field is ignored, but not before its numbers and its depth were parsed."""
    level = [value]
    depth = _ENTRY_DEPTH
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, int):
                _check_integer(item)
            elif isinstance(item, list):
                inner.extend(item or (None,))
            elif isinstance(item, tuple):
                inner.extend([held for _, held in item] or (None,))
        level = inner
        depth += bool(inner)
        if depth > MAX_DEPTH:
            raise Broken("too-deep", f"nested deeper than {MAX_DEPTH} levels")


def _check_integer(value: int) -> None:
    try:
        float(value)
    except OverflowError:
        raise Broken("bad-number", "an integer is out of range") from None
