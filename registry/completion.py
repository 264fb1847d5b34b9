"""What TAB asks a catalog: names, aliases, numbers, bases, check targets.

A read-only way of its own, because it must be quick: no SQLAlchemy, no schema check, nothing created, nothing upgraded,
and no answer rather than an error.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.settings import Settings

METHODS = ("cat", "linear", "svd")  # a test holds them equal to engine.merge's table, which needs torch to be read
_BUSY_S = 0.2  # how long a person waits at TAB for a writer to finish
_CONNECT_S = 2
_AFTER = "{"  # follows z, the last character a name may have: prefix <= name < prefix + this

_NAMESPACES = "SELECT DISTINCT namespace FROM adapters WHERE namespace >= ? AND namespace < ? ORDER BY 1"
_NAMES = "SELECT name FROM adapters WHERE namespace = ? AND name >= ? AND name < ? ORDER BY 1"
_OF = "JOIN adapters a ON a.id = x.adapter_id WHERE a.namespace = ? AND a.name = ?"
_ALIASES = f"SELECT x.name FROM aliases x {_OF} ORDER BY 1"  # noqa: S608 (constants)
_NUMBERS = f"SELECT x.number, x.digest FROM versions x {_OF} AND x.deleted_at IS NULL ORDER BY 1 DESC"  # noqa: S608
_DELETED = (
    f"SELECT x.number, x.digest FROM versions x {_OF} "  # noqa: S608 (constants)
    "AND x.deleted_at IS NOT NULL AND x.freed_at IS NULL ORDER BY 1 DESC"
)


def names(settings: Settings, text: str) -> list[str]:
    """Namespaces (`team/`) that begin with the text, then names of the default namespace; after a slash, names."""
    space, slash, start = text.lower().rpartition("/")
    if slash:
        return [f"{space}/{name}" for (name,) in _rows(settings, _NAMES, (space, start, start + _AFTER))]
    spaces = [f"{space}/" for (space,) in _rows(settings, _NAMESPACES, (start, start + _AFTER))]
    return spaces + [name for (name,) in _rows(settings, _NAMES, (settings.namespace, start, start + _AFTER))]


def references(settings: Settings, text: str, *, deleted: bool = False) -> list[str]:
    """Names; after `@` (or `:`) the adapter's aliases, `latest` and numbers, after `sha256` its digests.

    With `deleted`, only the numbers of versions that can be undeleted.
    """
    place = min((text.index(mark) for mark in "@:" if mark in text), default=None)
    if place is None:
        return names(settings, text)
    head, start = text[: place + 1], text[place + 1 :].lower()
    versions = _rows(settings, _DELETED if deleted else _NUMBERS, _parts(settings, head[:-1]))
    words = [str(number) for number, _ in versions]
    if start.startswith("sha256"):
        words = [digest for _, digest in versions]
    elif not deleted:
        words = [*aliases(settings, head[:-1]), "latest", *words]
    return [head + word for word in words if word.startswith(start)]


def aliases(settings: Settings, name: str | None) -> list[str]:
    """The aliases of an adapter, or of all of them."""
    if name is None:
        return [alias for (alias,) in _rows(settings, "SELECT DISTINCT name FROM aliases ORDER BY 1")]
    return [alias for (alias,) in _rows(settings, _ALIASES, _parts(settings, name))]


def bases(settings: Settings) -> list[str]:
    """Every name of every base."""
    return [name for (name,) in _rows(settings, "SELECT name FROM base_names ORDER BY 1")]


def checked(settings: Settings) -> list[str]:
    """The targets that stored checks were about."""
    return [target for (target,) in _rows(settings, "SELECT DISTINCT target FROM check_results ORDER BY 1")]


def _parts(settings: Settings, name: str) -> tuple[str, str]:
    space, _, own = name.lower().rpartition("/")
    return space or settings.namespace, own


def _rows(settings: Settings, query: str, values: Sequence[str] = ()) -> list[Any]:
    """The rows of a query; none where the catalog is not there, away, locked, foreign or of another shape."""
    url = settings.resolved_database_url
    try:
        if url.startswith("sqlite:///"):
            return _sqlite(url.removeprefix("sqlite:///"), query, values)
        return _postgresql(url, query, values)
    except Exception:  # noqa: BLE001 (a shell waits for words: there is nobody to tell)
        return []


def _sqlite(path: str, query: str, values: Sequence[str]) -> list[Any]:
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        return connection.execute(query, tuple(values)).fetchall()
    finally:
        connection.close()


def _postgresql(url: str, query: str, values: Sequence[str]) -> list[Any]:
    import psycopg

    plain = url.replace("postgresql+psycopg:", "postgresql:", 1)
    limits = "-c default_transaction_read_only=on -c statement_timeout=2s -c lock_timeout=200ms"
    with psycopg.connect(plain, autocommit=True, connect_timeout=_CONNECT_S, options=limits) as connection:
        return connection.execute(query.replace("?", "%s").encode(), tuple(values)).fetchall()
