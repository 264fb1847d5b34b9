"""adapters.provenance.json: what the training run writes beside the adapter for the push that follows.

It is read and not taken: the same weights from another run stay the same version. Its keys are those below and no
others; all may be absent or null.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.files.disk import reading_beneath
from registry.origins.provenance import FIELDS, Claim, claims
from registry.values.labeltexts import check_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIDECAR = "adapters.provenance.json"
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the file says: claims by field, and metrics."""

    claims: Mapping[str, Claim] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_sidecar(folder: Path) -> Sidecar:
    """The sidecar of a folder, empty where there is none; UsageError for one that is wrong, or no plain file."""
    try:
        with reading_beneath(folder, SIDECAR) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(_LONGEST + 1)
    except FileNotFoundError:
        return Sidecar()
    except OSError as error:
        raise UsageError(f"{folder / SIDECAR}: cannot be read: {error.strerror or error}") from None
    return _parse(content, str(folder / SIDECAR))


def _parse(content: bytes, place: str) -> Sidecar:
    if len(content) > _LONGEST:
        raise UsageError(f"{place}: more than {_LONGEST} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{place}: expected an object")
    metrics = document.pop("metrics", None)
    metrics = {} if metrics is None else metrics
    _check(document, metrics, place)
    check_metrics(metrics)
    return Sidecar(claims(document, SIDECAR), {name: float(value) for name, value in metrics.items()})


def _check(document: Mapping[str, Any], metrics: Any, place: str) -> None:
    unknown = sorted(document.keys() - set(FIELDS))
    if unknown:
        raise UsageError(f"{place}: unknown key {unknown[0][:120]!r}; known: {', '.join((*FIELDS, 'metrics'))}")
    for name, value in document.items():
        if not isinstance(value, (str, type(None))):
            raise UsageError(f"{place}: {name} must be a text, found {str(value)[:120]}")
    if not isinstance(metrics, dict):
        raise UsageError(f"{place}: metrics must be an object of numbers")
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e308:
            raise UsageError(f"{place}: metric {name[:120]}: expected a finite number, found {str(value)[:120]}")
