"""Bundles: a part of a registry as one file. Export plans from rows, then streams blobs; the file appears whole or not.

Every byte of a bundle follows from its content: `bundle.json`, then one member per blob in order of digest. The index
holds a record per version (composed from its rows now, so also what older records lack) with its tags, metrics and
aliases, and digest and size of each blob: files, manifests, bases' facts, reports.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry.browse.listing import labels_of
from registry.bundles.archive import CHUNK, END, header, padding
from registry.errors import CorruptError, UsageError
from registry.files.disk import CREATE, opened
from registry.files.newfile import new_file
from registry.models import File, LineageEdge, Version
from registry.records.recordrows import compose
from registry.results import ExportResult
from registry.values.digests import digest_of, hex_of
from registry.values.refs import Ref
from registry.values.strictjson import SCHEMA, canonical_json
from registry.versions.resolve import find_adapter, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.handle import Handle
    from registry.records.record import VersionRecord
    from registry.store.blobs import BlobStore
    from registry.values.progress import Progress

INDEX = "bundle.json"
LARGEST_INDEX = 32 << 20


@dataclass(slots=True)
class _Contents:
    """What a bundle will hold. Mutable while it is planned: `made` are blobs whose bytes are composed here."""

    versions: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    refs: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def enclose(self, content: bytes) -> None:
        """A blob that is composed from rows."""
        digest = digest_of(content)
        self.made[digest], self.sizes[digest] = content, len(content)


def export_bundle(
    handle: Handle, refs: tuple[Ref, ...], to: Path, *, parents: bool, force: bool, progress: Progress
) -> ExportResult:
    """Write versions to `to`, a bare name meaning all its versions that have files; ConflictError where it exists."""
    with handle.database.reading() as session:
        contents = _plan(session, refs, parents=parents)
    index = _index(contents)
    if len(index) > LARGEST_INDEX:
        raise UsageError(f"{len(contents.versions)} versions are too many for one bundle", hint="export fewer names")
    with new_file(to, force=force, command="export ...") as temporary:
        digest, size = _write(handle.store, contents, index, temporary, progress)
    return ExportResult(
        str(to), digest, size, tuple(contents.refs), len(contents.sizes), tuple(sorted(contents.left_out))
    )


def member(digest: str) -> str:
    """The name of a blob's member."""
    return f"blobs/sha256/{hex_of(digest)}"


def _plan(session: Session, refs: tuple[Ref, ...], *, parents: bool) -> _Contents:
    contents = _Contents()
    waiting = [version for ref in refs for version in _named(session, ref)]
    chosen: dict[int, Version] = {}
    while waiting:
        version = waiting.pop()
        if version.id not in chosen:
            chosen[version.id] = version
            waiting += _parents(session, version.id) if parents else []
    held = [version for version in chosen.values() if version.deleted_at is None]
    records: dict[int, VersionRecord] = {}
    for version in chosen.values():
        records[version.id], enclosed = compose(session, version)
        if version.deleted_at is not None:
            contents.left_out.append(records[version.id].ref)
        else:
            _enclose(session, version, enclosed.values(), contents)
    labels = labels_of(session, [version.id for version in held])
    for version in sorted(held, key=lambda one: (records[one.id].name, one.number)):
        record = records[version.id]
        contents.refs.append(record.ref)
        contents.versions.append(
            {
                "record": record.as_json(),
                "aliases": list(labels.aliases[version.id]),
                "tags": dict(labels.tags[version.id]),
                "metrics": dict(labels.metrics[version.id]),
            }
        )
    return contents


def _named(session: Session, ref: Ref) -> list[Version]:
    if ref != replace(Ref(ref.name)):
        return [resolve(session, ref)]
    adapter = find_adapter(session, ref.name)
    mine = select(Version).where(Version.adapter_id == adapter.id, Version.deleted_at.is_(None))
    found = list(session.scalars(mine.order_by(Version.number)))
    return found or [resolve(session, ref)]  # which says that all of them are deleted


def _parents(session: Session, version_id: int) -> list[Version]:
    above = select(LineageEdge.parent_id).where(LineageEdge.child_id == version_id)
    return list(session.scalars(select(Version).where(Version.id.in_(above)).order_by(Version.id)))


def _enclose(session: Session, version: Version, made: Iterable[bytes], contents: _Contents) -> None:
    kept = select(File.sha256, File.size).where(File.version_id == version.id, File.role.in_(("file", "manifest")))
    for digest, size in session.execute(kept):
        contents.sizes[digest] = size
    for content in made:
        contents.enclose(content)


def _index(contents: _Contents) -> bytes:
    blobs = [{"digest": digest, "size": size} for digest, size in sorted(contents.sizes.items())]
    return canonical_json({"schema": SCHEMA, "kind": "bundle", "versions": contents.versions, "blobs": blobs})


def _write(store: BlobStore, contents: _Contents, index: bytes, path: Path, progress: Progress) -> tuple[str, int]:
    total, done, hashed = sum(contents.sizes.values()), 0, hashlib.sha256()
    with opened(path, CREATE, mode=0o666) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:

        def put(piece: bytes) -> None:
            hashed.update(piece)
            file.write(piece)

        for piece in (header(INDEX, len(index)), index, padding(len(index))):
            put(piece)
        for digest, size in sorted(contents.sizes.items()):
            progress("exporting", done, total)
            put(header(member(digest), size))
            _copy(store, contents, digest, size, put)
            put(padding(size))
            done += size
        put(END)
        progress("exporting", total, total)
        return f"sha256:{hashed.hexdigest()}", file.tell()


def _copy(store: BlobStore, contents: _Contents, digest: str, size: int, put: Callable[[bytes], object]) -> None:
    """A blob's bytes, hashed on the way; CorruptError where they are not the digest's."""
    if digest in contents.made:
        put(contents.made[digest])
        return
    hashed, count = hashlib.sha256(), 0
    with store.open(digest) as source:
        while count <= size and (chunk := source.read(CHUNK)):
            hashed.update(chunk)
            put(chunk)
            count += len(chunk)
    if count != size or f"sha256:{hashed.hexdigest()}" != digest:
        actual = f"{count} bytes of sha256:{hashed.hexdigest()}"
        raise CorruptError(digest, expected=f"{size} bytes of {digest}", actual=actual)
