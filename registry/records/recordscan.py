"""The records in a blob store: found by reading every small blob, judged before any is followed.

A blob store holds what strangers pushed. A record counts only where it is in canonical form, says what a record may
say, and is no file of a version that another record makes: a file cannot speak for the catalog.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from registry.errors import CorruptError, IntakeError, UsageError
from registry.files.manifest import parse_manifest
from registry.records.record import parse_record
from registry.results import StoreFinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from registry.records.record import VersionRecord
    from registry.results import FileEntry
    from registry.store.blobs import BlobStore, StoredBlob
    from registry.values.progress import Progress

LARGEST = 1 << 20
_THREADS = 8
_AHEAD = 256
_UNTOLD = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record, the blob it is in, and when the store got that."""

    record: VersionRecord
    digest: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Kept:
    """One version to have: its record that counts, all its records, and its files (None where the manifest is lost).

    `enclosed` are the sizes of the blobs that the record names and the store has.
    """

    best: FoundRecord
    records: tuple[FoundRecord, ...]
    files: tuple[FileEntry, ...] | None
    manifest_size: int = 0
    enclosed: Mapping[str, int] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """What it is called."""
        return self.best.record.ref


@dataclass(slots=True)
class Scan:
    """What a store tells. Mutable while it is filled."""

    versions: list[Kept] = field(default_factory=list)
    highest: dict[str, int] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    findings: list[StoreFinding] = field(default_factory=list)

    def find(self, rule: str, severity: str, subject: str, message: str) -> None:
        """Remember a finding."""
        self.findings.append(StoreFinding(rule, severity, subject, message))


def scan_records(store: BlobStore, progress: Progress) -> Scan:
    """Every version that the store's records tell of, in the order they were made."""
    scan = Scan()
    found = _records(store, scan, progress)
    manifests = _manifests(store, scan, found)
    trusted = _trusted(found, manifests, scan)
    for one in trusted:
        name = one.record.name
        scan.highest[name] = max(scan.highest.get(name, 0), one.record.number)
    scan.versions = _in_order([_kept(group, manifests, scan) for group in _groups(trusted, scan)])
    return scan


def looks_like_record(content: bytes) -> bool:
    """Whether some bytes claim to be a record: canonical JSON of one begins with its base."""
    return content.startswith(b'{"base":') and b'"kind":"version"' in content


def refuse_record(path: Path, size: int, subject: str) -> None:
    """IntakeError for a file that is a record: once in the store, it could pass for one of the registry's own."""
    if size > LARGEST:
        return
    content = path.read_bytes()
    if looks_like_record(content):
        raise IntakeError(f"{subject}: is a version's record, which only a registry writes", hint="leave it out")


def _records(store: BlobStore, scan: Scan, progress: Progress) -> list[FoundRecord]:
    found = []
    for done, (blob, content) in enumerate(_beside(partial(_read, store), _small(store, scan))):
        progress("reading records", done, len(scan.blobs))
        if isinstance(content, CorruptError):
            scan.find("wrong-bytes", "error", blob.digest, f"expected {blob.digest}, found {content.actual}")
        elif looks_like_record(content):
            found += _parsed(blob, content, scan)
    return found


def _beside(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with what `work` makes of it in threads; in slices, so that no more than one waits in memory."""
    waiting = iter(items)
    with ThreadPoolExecutor(_THREADS) as threads:
        while batch := list(islice(waiting, _AHEAD)):
            yield from zip(batch, threads.map(work, batch), strict=True)


def _small(store: BlobStore, scan: Scan) -> Iterator[StoredBlob]:
    for blob in store.list():
        scan.blobs[blob.digest] = blob.size
        if blob.size <= LARGEST:
            yield blob


def _read(store: BlobStore, blob: StoredBlob) -> bytes | CorruptError:
    try:
        return store.read_bytes(blob.digest)
    except CorruptError as error:
        return error


def _parsed(blob: StoredBlob, content: bytes, scan: Scan) -> list[FoundRecord]:
    try:
        return [FoundRecord(parse_record(content), blob.digest, blob.size, blob.mtime)]
    except UsageError as error:
        scan.find("odd-record", "warning", blob.digest, f"not followed: {error}")
        return []


def _manifests(store: BlobStore, scan: Scan, found: list[FoundRecord]) -> dict[str, tuple[FileEntry, ...]]:
    known: dict[str, tuple[FileEntry, ...]] = {}
    for digest, files in _beside(partial(_manifest, store), sorted({one.record.manifest for one in found})):
        if isinstance(files, tuple):
            known[digest] = files
        else:
            scan.find("lost-manifest", "error", digest, f"a record names it as a manifest: {files}")
    return known


def _manifest(store: BlobStore, digest: str) -> tuple[FileEntry, ...] | CorruptError | UsageError:
    try:
        return parse_manifest(store.read_bytes(digest))
    except (CorruptError, UsageError) as error:
        return error


def _trusted(found: list[FoundRecord], manifests: dict[str, tuple[FileEntry, ...]], scan: Scan) -> list[FoundRecord]:
    """Records that no version holds as a file. One that only an untrusted record claims as a file stays trusted."""
    records = {one.digest: one for one in found}
    listers: dict[str, set[str]] = defaultdict(set)
    for one in found:
        for entry in manifests.get(one.record.manifest, ()):
            if entry.sha256 in records:
                listers[entry.sha256].add(one.digest)
    trusted = {digest for digest in records if digest not in listers}
    waiting, changed = dict(listers), True
    refused: set[str] = set()
    while changed:
        changed = False
        for digest in list(waiting):
            if waiting[digest] & trusted:
                refused.add(digest)
            elif waiting[digest] <= refused:
                trusted.add(digest)
            else:
                continue
            del waiting[digest]
            changed = True
    for digest in sorted(refused | waiting.keys()):
        claim = records[digest].record.ref
        scan.find("record-as-file", "warning", digest, f"not followed: a pushed file that says it is {claim}")
    return [one for one in found if one.digest in trusted]


def _groups(trusted: list[FoundRecord], scan: Scan) -> list[list[FoundRecord]]:
    """The records of each name and number, the one that counts first; at most one number per name and content."""
    numbers: dict[tuple[str, int], list[FoundRecord]] = defaultdict(list)
    elsewhere: dict[tuple[str, str], set[int]] = defaultdict(set)
    for one in trusted:
        numbers[one.record.name, one.record.number].append(one)
        elsewhere[one.record.name, one.record.manifest].add(one.record.number)

    def rank(one: FoundRecord) -> tuple[int, bool, float, str]:
        # An aborted push may have left a record of a number that another push then took. Content that has a number of
        # its own elsewhere was pushed again; else what was written last counts: numbers are taken under a lock.
        alone = len(elsewhere[one.record.name, one.record.manifest]) == 1
        return one.record.sequence, alone, one.mtime, one.digest

    groups = [sorted(group, key=rank, reverse=True) for _, group in sorted(numbers.items())]
    groups.sort(key=lambda group: (-group[0].record.sequence, group[0].record.name, group[0].record.number))
    taken: dict[tuple[str, str], str] = {}
    chosen = []
    for group in groups:
        best = group[0].record
        holder = taken.setdefault((best.name, best.manifest), best.ref)
        if holder != best.ref:
            scan.find(
                "same-content", "warning", group[0].digest, f"not followed: {best.ref} has the content of {holder}"
            )
        else:
            chosen.append(group)
    return chosen


def _kept(group: list[FoundRecord], manifests: dict[str, tuple[FileEntry, ...]], scan: Scan) -> Kept:
    best = group[0]
    for other in group[1:]:
        if other.record.manifest != best.record.manifest:
            text = f"{best.record.ref} is {best.record.manifest}; this says {other.record.manifest}"
            scan.find("rival-record", "warning", other.digest, f"not followed: {text}")
    same = tuple(one for one in group if one.record.manifest == best.record.manifest)
    manifest, named = best.record.manifest, best.record.enclosures.values()
    enclosed = {digest: scan.blobs[digest] for digest in named if digest in scan.blobs}
    return Kept(best, same, manifests.get(manifest), scan.blobs.get(manifest, 0), enclosed)


def _in_order(versions: list[Kept]) -> list[Kept]:
    """By the catalog's clock, within its smallest step by the store's; an adapter's by number whatever clocks did."""
    latest: dict[str, tuple[datetime, float]] = {}
    order: dict[str, tuple[tuple[datetime, float], str, int]] = {}
    for one in sorted(versions, key=lambda one: (one.best.record.name, one.best.record.number)):
        record = one.best.record
        said = datetime.fromisoformat(record.origin.created_at) if record.origin.created_at else _UNTOLD
        made = (said if said.tzinfo else said.replace(tzinfo=UTC), min(found.mtime for found in one.records))
        latest[record.name] = max(made, latest.get(record.name, made))
        order[one.ref] = (latest[record.name], record.name, record.number)
    return sorted(versions, key=lambda one: order[one.ref])
