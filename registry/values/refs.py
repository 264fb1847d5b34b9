"""Names and references, parsed once at the edge (design section 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from registry.errors import UsageError

_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}", re.ASCII)
_NUMBER = re.compile(r"v?([0-9]+)", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{12,64}", re.ASCII)
_HEX_LIKE = re.compile(r"[0-9a-f]{12,}", re.ASCII)
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
_SEPARATOR = re.compile(r"@|(?<![@:]sha256)(?<!^sha256):", re.ASCII | re.IGNORECASE)
_LARGEST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Name:
    """`namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to one version. At most one of `number` and `alias`; neither means latest, unless `digest` is given.

    `digest` is `sha256:` + 12 to 64 hex. Beside a number or alias (or `latest`) it pins: both must name one version.
    """

    name: Name
    number: int | None = None
    alias: str | None = None
    digest: str | None = None
    latest: bool = False

    def __str__(self) -> str:
        version = str(self.number) if self.number is not None else self.alias or ("latest" if self.latest else None)
        return "@".join(part for part in (str(self.name), version, self.digest) if part is not None)


def is_path(text: str) -> bool:
    """Whether this names a place on disk rather than a reference."""
    return text in (".", "..", "~") or text.startswith(("/", "./", "../", "~"))


def parse_name(text: str, *, namespace: str = "local") -> Name:
    """`namespace/name`, or `name` in the default namespace; upper case is folded."""
    _refuse_path(text)
    parts = text.split("/")
    if len(parts) > 2:
        raise UsageError(f"name {text[:120]!r}: expected namespace/name", hint="a path starts with /, ./, ../ or ~")
    if len(parts) == 1:
        parts = [namespace, text]
    return Name(_part(parts[0], "namespace"), _part(parts[1], "name"))


def parse_ref(text: str, *, namespace: str = "local") -> Ref:
    """`namespace/name`, `@number`, `@alias`, `@latest`, `@sha256:hex`, or `@number-or-alias@sha256:hex`."""
    _refuse_path(text)
    head, *selectors = _split(text)
    name = parse_name(head, namespace=namespace)
    fields: dict[Literal["number", "alias", "digest", "latest"], Any] = {}
    for position, selector in enumerate(selectors):
        kind, value = _selector(selector, text)
        if (position == 1 and kind != "digest") or position > 1 or kind in fields:
            raise UsageError(f"reference {text[:120]!r}: expected name@version or name@version@sha256:hex")
        fields[kind] = value
    return Ref(name=name, **fields)


def parse_alias(text: str) -> str:
    """An alias: a name part that no version number, `latest` or digest could be mistaken for."""
    alias = _part(text, "alias")
    if alias == "latest" or alias.startswith("sha256") or _NUMBER.fullmatch(alias) or _HEX_LIKE.fullmatch(alias):
        raise UsageError(f"alias {text!r} looks like a version number, latest or a digest; choose another word")
    return alias


def _refuse_path(text: str) -> None:
    if is_path(text):
        raise UsageError(
            f"{text[:120]!r} is a path; expected the name of an adapter or a reference, such as team/sql or team/sql@3",
            hint="adapters check PATH reads a folder; adapters which FILE finds the versions that hold a file",
        )


def _split(text: str) -> list[str]:
    """Split at `@`, or at `:` where it does not belong to `sha256:`."""
    return _SEPARATOR.split(text)


def _selector(text: str, whole: str) -> tuple[Literal["number", "alias", "digest", "latest"], int | str | bool]:
    folded = text.lower()
    if folded == "latest":
        return "latest", True
    if match := _NUMBER.fullmatch(folded):
        number = int(match.group(1)) if len(match.group(1)) < 20 else 0
        if not 0 < number <= _LARGEST_NUMBER:
            raise UsageError(f"reference {whole[:120]!r}: expected a version number from 1 to {_LARGEST_NUMBER}")
        return "number", number
    if folded.startswith("sha256:"):
        if not _HEX.fullmatch(folded.removeprefix("sha256:")):
            raise UsageError(f"reference {whole[:120]!r}: a digest is sha256: and 12 to 64 hex digits")
        return "digest", folded
    return "alias", parse_alias(text)


def _part(text: str, what: str) -> str:
    folded = text.lower() if text.isascii() else text
    if not _PART.fullmatch(folded) or ".." in folded:
        raise UsageError(
            f"{what} {text[:120]!r}: expected 1 to 96 of a-z 0-9 . _ - without `..`, the first a letter or digit"
        )
    if folded.split(".", 1)[0] in _DEVICES or folded.endswith("."):
        raise UsageError(f"{what} {text!r}: device names and a trailing dot are not portable")
    return folded
