"""adapters.toml of a project, and config.toml of a user: the same keys, each checked, none unknown.

A project's file comes with whatever folder one stands in, so it may only say where things are and fill in what nobody
said: it allows no rule, names no alias and holds no command. One that another user could have put there is refused.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from registry.errors import UsageError
from registry.origins.provenance import FIELDS, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from registry.origins.provenance import Claim

PROJECT, USER, LOCK = "adapters.toml", "config.toml", "adapters.lock"
# Where a registry is: these hold together, so they are taken from one place or not at all.
PLACES = ("home", "database_url", "store_url")
_CONTEXT_KEYS = frozenset({*PLACES, "cache", "namespace"})
_KEYS = _CONTEXT_KEYS | {"format", "context", "contexts", "provenance", "push", "trusted"}
_PATHS = ("home", "cache")


@dataclass(frozen=True, slots=True)
class PushDefaults:
    """What a push is given where nobody says otherwise."""

    base: str | None = None
    include: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file, its relative paths made absolute. `values` are the texts of its top level."""

    path: Path
    values: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    provenance: Mapping[str, Claim] = field(default_factory=dict)
    push: PushDefaults = field(default_factory=PushDefaults)
    trusted: tuple[Path, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Secrets, without saying them."""
        registries = {"": self.values, **{f"of context {name} ": values for name, values in self.contexts.items()}}
        return tuple(
            f"{self.path}: the database_url {where}holds a password, which whoever reads the file has; keep it in"
            " PGPASSFILE, or in ADAPTERS_DATABASE_URL"
            for where, values in registries.items()
            if has_password(values.get("database_url", ""))
        )


def find_project(folder: Path, trusted: Iterable[Path] = ()) -> ConfigFile | None:
    """The nearest adapters.toml at or above a folder. UsageError for one of another user, outside `trusted` folders."""
    for place in (folder, *folder.parents):
        path = place / PROJECT
        if os.path.isfile(path):  # noqa: PTH113 (it never raises, also above a folder that may not be searched)
            known = place.resolve() in {one.resolve() for one in trusted}
            return read_config(path, check=None if known else _check_owner)
    return None


def find_user(environ: Mapping[str, str]) -> ConfigFile | None:
    """The user's own file below $XDG_CONFIG_HOME, None where there is none."""
    above = environ.get("XDG_CONFIG_HOME")
    path = (Path(above) if above else Path("~/.config").expanduser()) / "adapters" / USER
    return read_config(path) if path.is_file() else None


def read_config(path: Path, *, check: Callable[[Path, os.stat_result], None] | None = None) -> ConfigFile:
    """A file's content; UsageError names the file and the key that is wrong. `check` may refuse the file that was
    opened, so that a link which is exchanged meanwhile gains nothing.
    """
    import tomllib

    try:
        with path.open("rb") as file:
            if check is not None:
                check(path, os.fstat(file.fileno()))
            content = tomllib.loads(file.read().decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as TOML: {error}") from None
    _check_keys(path, "", content, _KEYS)
    contexts, push = _table(path, content, "contexts"), _table(path, content, "push")
    provenance = _table(path, content, "provenance")
    _check_keys(path, "provenance.", provenance, FIELDS)
    return ConfigFile(
        path=path,
        values=_texts(path, "", {key: content[key] for key in content.keys() - {*_TABLES, "trusted"}}),
        contexts={name: _context(path, name, one) for name, one in contexts.items()},
        provenance=claims(_texts(path, "provenance.", provenance), path.name),
        push=_push(path, push),
        trusted=tuple(path.parent / Path(one).expanduser() for one in _list(path, "trusted", content.get("trusted"))),
    )


def has_password(url: str) -> bool:
    """Whether a URL holds a password, before the host or as a parameter."""
    rest = url.partition("://")[2]
    user = rest.rpartition("@")[0].partition("?")[0] if "@" in rest else ""
    return ":" in user or any(key == "password" for key, _ in parse_qsl(rest.partition("?")[2]))


_TABLES = frozenset({"contexts", "provenance", "push"})


def _check_owner(path: Path, opened: os.stat_result) -> None:
    # A link of another user to a file of one's own leads what is relative in it into his folder.
    owners = {known.st_uid for known in (opened, path.lstat())} - {os.geteuid(), 0}
    if owners or opened.st_mode & stat.S_IWOTH:
        why = f"belongs to user id {min(owners)}" if owners else "can be written by everyone"
        raise UsageError(
            f"{path}: {why}, so it does not say where your registry is",
            hint=f'trusted = ["{path.parent}"] in ~/.config/adapters/{USER}, if you trust it',
        )


def _context(path: Path, name: str, content: Any) -> Mapping[str, str]:
    if not isinstance(content, dict):
        raise UsageError(f"{path}: contexts.{name} must be a table")
    _check_keys(path, f"contexts.{name}.", content, _CONTEXT_KEYS)
    return _texts(path, f"contexts.{name}.", content)


def _push(path: Path, content: Mapping[str, Any]) -> PushDefaults:
    _check_keys(path, "push.", content, ("base", "include", "tags"))
    tags = content.get("tags", {})
    if not isinstance(tags, dict):
        raise UsageError(f"{path}: push.tags must be a table")
    base = _texts(path, "push.", {"base": content["base"]} if "base" in content else {}).get("base")
    return PushDefaults(base, _list(path, "push.include", content.get("include")), _texts(path, "push.tags.", tags))


def _table(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {key!r} must be a table")
    return table


def _list(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{path}: {key!r} must be a list of strings")
    return tuple(value)


def _texts(path: Path, above: str, content: Mapping[str, Any]) -> dict[str, str]:
    for key, value in content.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: '{above}{key}' must be a string, found {str(value)[:120]}")
    places = {key: str(path.parent / Path(content[key]).expanduser()) for key in _PATHS if content.get(key)}
    return {**content, **({} if above in ("provenance.", "push.tags.") else places)}


def _check_keys(path: Path, above: str, content: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise UsageError(f"{path}: unknown key '{above}{unknown[0][:120]}'; known: {', '.join(sorted(known))}")
