"""What TAB asks a catalog: names, aliases, numbers, bases, artifacts, check targets.

A read-only way of its own, because it must be quick: no SQLAlchemy, no schema check, nothing created, nothing upgraded,
and no answer rather than an error or a long wait: a database server gets one connection and one second in all.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.settings import Settings

METHODS = (
    *("cat", "linear", "svd", "resize", "slerp", "model_stock"),
    *("tsv_m", "knots_ties", "core_ties"),
    *("ties", "dare_linear", "dare_ties", "magnitude_prune"),
)  # a test holds them equal to engine.merge's table, which needs torch to be read
_BUSY_S = 0.2  # how long a person waits at TAB for a writer to finish
_PATIENCE_S = 1.0  # for a database server: its name, its connection and its answers together
_CONNECT_S = 2  # the least that libpq takes; nobody waits for the thread that waits for it
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
    return _soon(settings, lambda catalog: _names(catalog, text))


def references(settings: Settings, text: str, *, deleted: bool = False) -> list[str]:
    """Names; after `@` (or `:`) the adapter's aliases, `latest` and numbers, after `sha256` its digests.

    With `deleted`, only the numbers of versions that can be undeleted.
    """
    place = min((text.index(mark) for mark in "@:" if mark in text), default=None)
    if place is None:
        return names(settings, text)
    head, start = text[: place + 1], text[place + 1 :].lower()
    return _soon(settings, lambda catalog: _versions(catalog, head, start, deleted=deleted))


def aliases(settings: Settings, name: str | None) -> list[str]:
    """The aliases of an adapter, or of all of them."""
    if name is None:
        return _soon(settings, lambda catalog: catalog.words("SELECT DISTINCT name FROM aliases ORDER BY 1"))
    return _soon(settings, lambda catalog: catalog.words(_ALIASES, catalog.parts(name)))


def bases(settings: Settings) -> list[str]:
    """Every name of every base."""
    return _soon(settings, lambda catalog: catalog.words("SELECT name FROM base_names ORDER BY 1"))


def artifacts(settings: Settings) -> list[str]:
    """The numbers of all artifacts."""
    query = "SELECT CAST(id AS VARCHAR(20)) FROM artifacts WHERE removed_at IS NULL ORDER BY id"
    return _soon(settings, lambda catalog: catalog.words(query))


def checked(settings: Settings) -> list[str]:
    """The targets that stored checks were about."""
    return _soon(settings, lambda catalog: catalog.words("SELECT DISTINCT target FROM check_results ORDER BY 1"))


def _names(catalog: _Catalog, text: str) -> list[str]:
    space, slash, start = text.lower().rpartition("/")
    if slash:
        return [f"{space}/{name}" for name in catalog.words(_NAMES, (space, start, start + _AFTER))]
    spaces = [f"{space}/" for space in catalog.words(_NAMESPACES, (start, start + _AFTER))]
    return spaces + catalog.words(_NAMES, (catalog.namespace, start, start + _AFTER))


def _versions(catalog: _Catalog, head: str, start: str, *, deleted: bool) -> list[str]:
    name = catalog.parts(head[:-1])
    versions = catalog.rows(_DELETED if deleted else _NUMBERS, name)
    words = [str(number) for number, _ in versions]
    if start.startswith("sha256"):
        words = [digest for _, digest in versions]
    elif not deleted:
        words = [*catalog.words(_ALIASES, name), "latest", *words]
    return [head + word for word in words if word.startswith(start)]


class _Catalog:
    """One read-only connection, made at the first question; where that failed, nothing is asked again."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.resolved_database_url
        self.namespace = settings.namespace
        self.connection: Any = None
        self.away = False

    def parts(self, name: str) -> tuple[str, str]:
        space, _, own = name.lower().rpartition("/")
        return space or self.namespace, own

    def words(self, query: str, values: Sequence[str] = ()) -> list[str]:
        """The first column of `rows`."""
        return [row[0] for row in self.rows(query, values)]

    def rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        """The rows of a query; none where the catalog is not there, away, locked, foreign or of another shape."""
        if self.away:
            return []
        try:
            if self.connection is None:
                self.connection = _connected(self.url)
            query = query if _is_file(self.url) else query.replace("?", "%s")
            return list(self.connection.execute(query, tuple(values)).fetchall())
        except Exception:  # noqa: BLE001 (a shell waits for words: there is nobody to tell)
            self.away = self.connection is None
            return []

    def close(self) -> None:
        if self.connection is not None:
            with suppress(Exception):
                self.connection.close()


def _soon(settings: Settings, ask: Callable[[_Catalog], list[str]]) -> list[str]:
    """The answer, or none where a server takes longer for it than a person waits at TAB."""
    answer: list[str] = []

    def work() -> None:
        catalog = _Catalog(settings)
        try:
            answer.extend(ask(catalog))
        finally:
            catalog.close()

    if _is_file(settings.resolved_database_url):
        work()
        return answer
    with suppress(ImportError):
        import psycopg  # noqa: F401 (before the clock runs)
    # A thread, because neither a lookup of a name nor libpq can be told to end in time; it ends with the process.
    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return list(answer)


def _is_file(url: str) -> bool:
    return url.startswith("sqlite:///")


def _connected(url: str) -> Any:
    if _is_file(url):
        return sqlite3.connect(f"file:{quote(url.removeprefix('sqlite:///'))}?mode=ro", uri=True, timeout=_BUSY_S)
    import psycopg

    plain = url.replace("postgresql+psycopg:", "postgresql:", 1)
    limits = "-c default_transaction_read_only=on -c statement_timeout=1s -c lock_timeout=200ms"
    return psycopg.connect(plain, autocommit=True, connect_timeout=_CONNECT_S, options=limits)
