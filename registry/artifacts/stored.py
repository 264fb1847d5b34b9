"""Artifacts in the blob store: a blob per tensor, so that merges of one base share what they did not change.

Tensors smaller than SMALL that lie beside each other share a blob, up to RUN bytes: a bucket should not hold ten
thousand objects of a few bytes. Headers are blobs of their own, every other file is one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.artifacts.contents import ranges
from registry.artifacts.reuse import sync
from registry.artifacts.rows import change
from registry.catalog import leases
from registry.collecting.protection import protected
from registry.errors import CorruptError
from registry.files.checkout import put
from registry.files.disk import CREATE, opened, reaching, reading_beneath
from registry.files.scratch import scratch_beside
from registry.files.staging import StagedFile
from registry.files.transfer import write_all
from registry.models import Blob
from registry.records.blobrows import know_blobs
from registry.results import FileEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.artifacts.contents import Content
    from registry.artifacts.rows import Known, Layout
    from registry.files.staging import Staging
    from registry.handle import Handle
    from registry.store.blobs import BlobStore
    from registry.values.progress import Progress

SMALL = 64 << 10
RUN = 1 << 20
BATCH = 256 << 20
_CHUNK = 4 << 20
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes of a file that become one blob."""

    path: str
    start: int
    size: int
    digest: str


def keep(handle: Handle, known: Known, folder: Path, *, progress: Progress, anew: bool = False) -> Known:
    """Puts the artifact, which lies in `folder` as recorded, into the store; the row then names its blobs, and a lease
    without end keeps gc from them. CorruptError where the folder is not as recorded.

    What the catalog says is in the store is not sent again, unless `anew`: its bytes are hashed when they are read.
    """
    stretches = [one for content in known.contents for one in _stretches(folder, content)]
    entries = {one.digest: FileEntry(one.path, one.digest, one.size) for one in stretches}
    with handle.store.staging() as staging, protected(handle, staging.folder, sorted(entries)) as lease:
        there = set() if anew else _known_blobs(handle, entries.values())
        _place(handle, staging, folder, [one for one in stretches if one.digest not in there], progress)

        def finish(session: Session) -> Known:
            leases.share_publishing(session)
            leases.require(session, lease)
            know_blobs(session, entries.values())
            held = leases.hold(session, entries, owner=f"artifact:{known.recipe_digest}")
            leases.release(session, lease)

            def stored(one: Known) -> Known:
                let_go(session, one)
                return replace(one, stored=_layout(stretches), lease_id=held)

            return change(session, known.recipe_digest, stored)

        return handle.database.write(finish)


def restore(store: BlobStore, known: Known, to: Path) -> None:
    """Makes the new folder `to` from the store, with the bytes and files that were kept. CorruptError where the store's
    are wrong or missing; then `to` is as it was.
    """
    assert known.stored is not None
    with scratch_beside(to, mode=0o777) as scratch, reaching(to):
        for path, blobs in known.stored.items():
            target = scratch / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened(target, CREATE, mode=0o666) as descriptor:
                for digest, _ in blobs:
                    _append(store, digest, descriptor)
                os.fsync(descriptor)
        sync(scratch, known.contents)
        put(scratch, to)


def let_go(session: Session, known: Known) -> None:
    """Ends the lease that keeps the artifact's blobs, so that the next gc takes those that nothing else names."""
    if known.lease_id is not None:
        leases.release(session, known.lease_id)


def _stretches(folder: Path, content: Content) -> Iterator[Stretch]:
    if not content.size:
        yield Stretch(content.path, 0, 0, content.pieces[0].sha256)
        return
    for start, size, digests in _runs(content):
        digest = digests[0] if len(digests) == 1 else _hash(folder, content.path, start, size)
        yield Stretch(content.path, start, size, digest)


def _runs(content: Content) -> list[tuple[int, int, list[str]]]:
    """Start, bytes and digests of pieces that share a blob; a header, which is first, shares with nothing."""
    runs: list[tuple[int, int, list[str]]] = []
    small = False
    for piece, start in ranges(content):
        joins = small and 0 <= piece.size < SMALL and runs[-1][1] + piece.size <= RUN
        if joins:
            before = runs.pop()
            runs.append((before[0], before[1] + piece.size, [*before[2], piece.sha256]))
        elif piece.size:
            runs.append((start, piece.size, [piece.sha256]))
            small = bool(piece.name) and piece.size < SMALL
    return runs


def _layout(stretches: Sequence[Stretch]) -> Layout:
    layout: Layout = {}
    for one in stretches:
        layout.setdefault(one.path, []).extend([[one.digest, one.size]])
    return layout


def _place(handle: Handle, staging: Staging, folder: Path, stretches: Sequence[Stretch], progress: Progress) -> None:
    waiting: list[StagedFile] = []
    names, done, total = count(), 0, sum(one.size for one in stretches)
    for one in {one.digest: one for one in stretches}.values():
        waiting.append(_staged(staging, folder, one, f"{next(names)}"))
        done += one.size
        progress("storing tensors", done, total)
        if sum(file.size for file in waiting) >= BATCH:
            handle.store.place(*waiting)
            waiting = []
    if waiting:
        handle.store.place(*waiting)


def _known_blobs(handle: Handle, entries: Iterable[FileEntry]) -> set[str]:
    """Those that a row says are in the store: the lease has them by now, so they stay."""
    sizes, found = {entry.sha256: entry.size for entry in entries}, set()
    with handle.database.reading() as session:
        for page in _pages(sorted(sizes)):
            query = select(Blob.digest, Blob.size).where(Blob.digest.in_(page), Blob.state == "live")
            found |= {digest for digest, size in session.execute(query) if size == sizes[digest]}
    return found


def _pages(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    """Pages of as many as one statement may name."""
    return (digests[start : start + _PAGE] for start in range(0, len(digests), _PAGE))


def _staged(staging: Staging, folder: Path, stretch: Stretch, name: str) -> StagedFile:
    target = staging.folder / name
    with reaching(target), reading_beneath(folder, stretch.path) as source, opened(target, CREATE) as descriptor:
        os.fchmod(descriptor, 0o444)
        digest = hashlib.sha256()
        for chunk in _chunks(source, stretch.start, stretch.size):
            digest.update(chunk)
            write_all(descriptor, memoryview(chunk))
        os.fsync(descriptor)
    actual = f"sha256:{digest.hexdigest()}"
    if actual != stretch.digest:
        raise CorruptError(str(folder / stretch.path), expected=stretch.digest, actual=actual)
    return StagedFile(target, actual, stretch.size)


def _hash(folder: Path, path: str, start: int, size: int) -> str:
    digest = hashlib.sha256()
    with reaching(folder / path), reading_beneath(folder, path) as source:
        for chunk in _chunks(source, start, size):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _chunks(source: int, start: int, size: int) -> Iterator[bytes]:
    end = start + size
    while start < end and (chunk := os.pread(source, min(_CHUNK, end - start), start)):
        yield chunk
        start += len(chunk)


def _append(store: BlobStore, digest: str, target: int) -> None:
    found = hashlib.sha256()
    with store.open(digest) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
            write_all(target, memoryview(chunk))
    actual = f"sha256:{found.hexdigest()}"
    if actual != digest:
        raise CorruptError(f"blob {digest}", expected=digest, actual=actual)
