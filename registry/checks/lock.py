"""adapters.lock: what references meant when they were locked, so that a check judges that and nothing else.

[[adapter]]
ref = "team/sql@prod"
version = "team/sql@3"
digest = "sha256:…"
base = "sha256:…"        # the base's fingerprint, its layout where that is all there is; absent without a base
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import ConflictError, UsageError
from registry.files.newfile import new_file
from registry.findings.rulesets import base_digest
from registry.values.digests import is_digest
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from registry.checks.candidates import Candidate

_LARGEST = 16 << 20
_KEYS = ("ref", "version", "digest", "base")


@dataclass(frozen=True, slots=True)
class Pin:
    """One reference and what it meant; `base` is the key of the base that the version is for."""

    ref: str
    version: str
    digest: str
    base: str | None = None


@dataclass(frozen=True, slots=True)
class LockResult:
    """What a lock file holds now; `changed` are the references that mean something else than before, or are new."""

    path: Path
    adapters: tuple[Pin, ...]
    changed: tuple[str, ...] = ()


def read_lock(path: Path) -> tuple[Pin, ...]:
    """The pins of a lock file; UsageError for a file that is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        hint = f"adapters lock REF... --file {path}"
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}", hint=hint) from None
    if len(content) > _LARGEST:
        raise UsageError(f"{path}: more than {_LARGEST} bytes")
    import tomllib

    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as TOML: {error}") from None
    adapters = document.get("adapter", [])
    if document.keys() - {"adapter"} or not isinstance(adapters, list):
        raise UsageError(f"{path}: expected nothing but [[adapter]] tables")
    pins = tuple(_pin(one, f"{path}: adapter {n}") for n, one in enumerate(adapters, 1))
    counted = Counter(pin.ref for pin in pins)
    if twice := [ref for ref, count in counted.items() if count > 1]:
        raise UsageError(f"{path}: {twice[0]!r:.120} is locked twice; which of them counts?")
    return pins


def write_lock(path: Path, pins: Iterable[Pin]) -> None:
    """Write the pins in order of their references, in the place of what was there."""
    with new_file(path, force=True) as temporary:
        temporary.write_text("".join(_lines(pins)), encoding="utf-8")


def require_locked(path: Path, pins: Sequence[Pin], candidates: Iterable[Candidate]) -> None:
    """ConflictError where a reference means something else than the lock says, or is not in it."""
    locked = {pin.ref: pin for pin in pins}
    wrong = {
        one.target: problem
        for one in candidates
        if (problem := _problem(locked.get(one.target), one, path)) is not None
    }
    if wrong:
        refs = shlex.join(target for target in wrong if not is_path(target)) or "REF..."
        hint = f"adapters lock {refs} --file {shlex.quote(str(path))} takes what they mean now"
        raise ConflictError("; ".join(wrong.values()), hint=hint)


def _problem(pin: Pin | None, found: Candidate, path: Path) -> str | None:
    if found.digest is None:
        return f"{found.target}: a folder is never locked; give a reference"
    if pin is None:
        return f"{found.target}: not in {path}"
    if pin.digest != found.digest:
        return f"{found.target}: expected {pin.digest} ({pin.version}) as locked, found {found.digest}"
    if pin.base != (now := base_digest(found.base)):
        return f"{found.target}: its base was {pin.base or 'not known'} when it was locked, and is {now or 'not known'}"
    return None


def _pin(given: Any, place: str) -> Pin:
    if not isinstance(given, dict) or given.keys() - set(_KEYS) or not {"ref", "version", "digest"} <= given.keys():
        raise UsageError(f"{place}: expected ref, version, digest and perhaps base")
    for key, value in given.items():
        if not isinstance(value, str) or (key in ("digest", "base") and not is_digest(value)):
            raise UsageError(f"{place}: {key}: not expected: {str(value)[:120]!r}")
    return Pin(**given)


def _lines(pins: Iterable[Pin]) -> Iterator[str]:
    yield "# Made by `adapters lock`; `adapters check --locked` holds to it.\n"
    for pin in sorted(pins, key=lambda pin: pin.ref):
        yield "\n[[adapter]]\n"
        for key in _KEYS:
            value = getattr(pin, key)
            if value is not None:
                yield f"{key} = {json.dumps(value)}\n"
