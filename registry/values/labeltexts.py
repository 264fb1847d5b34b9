"""What may be written in tags, metrics and messages. Imports no database: folders are judged by it too."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_VALUE = 512
_LONGEST_MESSAGE = 4096
# Keys are typed, filtered by and printed in tables: no spaces, no "=", nothing that a shell or terminal acts on.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,95}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_texts(tags: Mapping[str, str], metrics: Mapping[str, float], message: str | None) -> None:
    """UsageError for labels or a message that cannot be stored: before anything is written."""
    check_tags(tags)
    check_metrics(metrics)
    if message is not None and len(message) > _LONGEST_MESSAGE:
        raise UsageError(f"message: {len(message)} characters, at most {_LONGEST_MESSAGE} are kept")


def check_tags(tags: Mapping[str, str]) -> None:
    """UsageError for a key or value that cannot be stored."""
    for key, value in tags.items():
        _check_key("tag", key)
        if len(value) > _LONGEST_VALUE:
            raise UsageError(f"tag {key}: the value has {len(value)} characters, at most {_LONGEST_VALUE} are kept")
        if _CONTROL.search(value):
            raise UsageError(f"tag {key}: the value {value[:80]!r} has control characters")


def check_metrics(metrics: Mapping[str, float]) -> None:
    """UsageError for a name that cannot be stored or a value that is not finite."""
    for name, value in metrics.items():
        _check_key("metric", name)
        if not math.isfinite(value):
            raise UsageError(f"metric {name}: expected a finite number, found {value}")


def _check_key(what: str, key: str) -> None:
    if not _KEY.fullmatch(key):
        raise UsageError(f"{what} {key[:120]!r}: expected 1 to 96 of letters, digits and . _ / : @ + -")
