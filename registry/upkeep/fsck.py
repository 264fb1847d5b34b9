"""Check the whole registry: rows against each other, rows against blobs, blobs against their digests.

Findings have stable ids. What a crash may leave is `info` and gc removes it; `warning` is odd and harmless; `error`
means that a promise is broken. The ids in WRONG_BYTES say that bytes are lost or wrong (exit 6).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from registry.errors import CorruptError, MissingBlobError, UsageError
from registry.files.manifest import parse_manifest
from registry.models import Adapter, Blob, File, Version
from registry.pulls.pulled import stale_pulls
from registry.results import FileEntry, FsckResult, StoreFinding
from registry.upkeep.rowchecks import ref_text, row_findings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from registry.catalog.database import Database
    from registry.handle import Handle
    from registry.store.blobs import BlobStore
    from registry.values.progress import Progress

WRONG_BYTES = frozenset({"missing-blob", "wrong-bytes", "wrong-size", "wrong-manifest"})


def check_registry(handle: Handle, *, progress: Progress) -> FsckResult:
    """Every row and every byte. Reads only. Beside running pushes it may report their leases and orphans."""
    database, store = handle.database, handle.store
    findings = row_findings(database)
    with database.reading() as session:
        rows = {
            digest: (size, state) for digest, size, state in session.execute(select(Blob.digest, Blob.size, Blob.state))
        }
        versions = session.scalar(select(func.count()).select_from(Version)) or 0
    if rows:
        store.require()
    # Listed after the rows were read: a blob is in place before its row is there, so none can seem to be missing.
    on_disk = {blob.digest: blob.size for blob in store.list()}
    findings += _rows_against_blobs(rows, on_disk)
    findings += _hashes(store, [digest for digest in rows if digest in on_disk], progress)
    findings += _blobs_against_rows(rows, on_disk)
    findings += _leftovers(store, handle.settings.pulled)
    bad = {finding.subject for finding in findings if finding.id in WRONG_BYTES}
    findings += _manifests(database, store, bad)
    return FsckResult(status=_status(findings), versions=versions, blobs=len(on_disk), findings=tuple(findings))


def rebuild_registry(handle: Handle, *, progress: Progress) -> FsckResult:
    """Make again what records tell of and the catalog lacks, then check all of it."""
    from registry.rebuilding.rebuild import rebuild

    done = rebuild(handle, progress=progress)
    checked = check_registry(handle, progress=progress)
    findings = tuple(dict.fromkeys((*done.findings, *checked.findings)))
    return replace(checked, status=_status(findings), findings=findings, made=done.made, completed=done.completed)


def _status(findings: Iterable[StoreFinding]) -> str:
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return "fail"
    return "warn" if "warning" in severities else "pass"


def _rows_against_blobs(rows: Mapping[str, tuple[int, str]], on_disk: Mapping[str, int]) -> list[StoreFinding]:
    found = []
    for digest, (size, state) in sorted(rows.items()):
        if state == "deleting":
            found.append(StoreFinding("unfinished-deletion", "info", digest, "the next gc finishes it"))
        elif digest not in on_disk:
            found.append(StoreFinding("missing-blob", "error", digest, "a row names it, the store has no such file"))
        elif on_disk[digest] != size:
            message = f"expected {size} bytes, found {on_disk[digest]}"
            found.append(StoreFinding("wrong-size", "error", digest, message))
    return found


def _hashes(store: BlobStore, digests: list[str], progress: Progress) -> list[StoreFinding]:
    found = []
    for done, digest in enumerate(sorted(digests)):
        progress("hashing blobs", done, len(digests))
        try:
            store.verify(digest)
        except MissingBlobError:
            continue  # freed by a collection that runs beside this
        except CorruptError as error:
            message = f"expected {error.expected}, found {error.actual}"
            found.append(StoreFinding("wrong-bytes", "error", digest, message))
    return found


def _blobs_against_rows(rows: Mapping[str, tuple[int, str]], on_disk: Mapping[str, int]) -> list[StoreFinding]:
    message = "no row names it: left by an interrupted push, or by one that runs"
    return [StoreFinding("orphan-blob", "info", digest, message) for digest in sorted(on_disk.keys() - rows.keys())]


def _leftovers(store: BlobStore, pulled: Path) -> list[StoreFinding]:
    scratch = [*store.stale_staging(), *stale_pulls(pulled)]
    dead = [StoreFinding("dead-staging", "info", str(path), "its process is gone") for path in scratch]
    return dead + [StoreFinding("stray-file", "warning", str(path), "is no blob") for path in store.strays()]


def _manifests(database: Database, store: BlobStore, bad: set[str]) -> list[StoreFinding]:
    """Versions whose manifest blob does not say what their rows say."""
    with database.reading() as session:
        query = select(Version.id, ref_text().label("ref"), Version.digest).join_from(Version, Adapter)
        versions = [(row.id, row.ref, row.digest) for row in session.execute(query.order_by(Version.id))]
    found = []
    for version, ref, digest in versions:
        if digest not in bad and not _agrees(store, digest, _files(database, version)):
            found.append(StoreFinding("wrong-manifest", "error", ref, f"{digest} lists other files than the rows"))
    return found


def _files(database: Database, version: int) -> tuple[FileEntry, ...]:
    """In a transaction of its own: a long one would keep writers of a SQLite catalog out while blobs are read."""
    query = select(File.path, File.sha256, File.size).where(File.version_id == version, File.role == "file")
    with database.reading() as session:
        return tuple(FileEntry(path, sha256, size) for path, sha256, size in session.execute(query))


def _agrees(store: BlobStore, digest: str, files: tuple[FileEntry, ...]) -> bool:
    try:
        listed = parse_manifest(store.read_bytes(digest))
    except (CorruptError, UsageError):
        return False
    return sorted(listed, key=lambda entry: entry.path) == sorted(files, key=lambda entry: entry.path)
