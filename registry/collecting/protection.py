"""What keeps gc from the blobs of a running push: a lease, renewed for as long as the push runs."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from registry.catalog import leases
from registry.collecting.gc import take_away, take_over
from registry.collecting.owners import owner_of
from registry.errors import BlobGoingError, RegistryError, SpoiledError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.handle import Handle

# A push that died on another host holds its blobs for this long; one that runs renews its lease well before.
LEASE = timedelta(minutes=15)
BEATS = 4
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0


@contextmanager
def protected(handle: Handle, folder: Path, digests: Sequence[str]) -> Iterator[str]:
    """A lease on these digests until the block ends or `publish.record` drops it; `folder` is the push's own staging.

    Waits for a gc that is deleting one of them: BusyError where that takes longer than a claim lasts.
    """
    lease = _acquire(handle, digests, owner_of(folder))
    try:
        with _beating(handle.database, lease):
            yield lease
    except BaseException as error:
        # Best effort: gc drops the lease of a process that is gone, and takes what lies wrong in the store.
        with suppress(RegistryError):
            handle.database.write(lambda session: leases.release(session, lease))
            if isinstance(error, SpoiledError):
                take_away(handle, error.digests)
        raise


def await_deletion(handle: Handle, digests: Sequence[str]) -> None:
    """Return when no gc is deleting any of these any more; what a dead one left is ended here.

    BusyError where that takes longer than a claim lasts.
    """
    end, pause = time.monotonic() + leases.PATIENCE.total_seconds(), _FIRST_PAUSE_S
    while doomed := _doomed(handle.database, digests):
        if take_over(handle, doomed):
            continue
        if time.monotonic() > end:
            raise BlobGoingError(doomed[0])
        time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (no secret)
        pause = min(_LONGEST_PAUSE_S, pause * 2)


def _acquire(handle: Handle, digests: Sequence[str], owner: str) -> str:
    def acquire(session: Session) -> str | None:
        return leases.acquire(session, digests, LEASE, owner=owner)

    while (lease := handle.database.write(acquire)) is None:
        await_deletion(handle, digests)
    return lease


def _doomed(database: Database, digests: Sequence[str]) -> list[str]:
    with database.reading() as session:
        return leases.doomed(session, digests)


@contextmanager
def _beating(database: Database, lease: str) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(LEASE.total_seconds() / BEATS):
            # A database that is away for a moment may be back at the next beat; the publish asks for the lease anyway.
            with suppress(RegistryError):
                database.write(lambda session: leases.renew(session, lease, LEASE))

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
