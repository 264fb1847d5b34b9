"""`fsck --rebuild` (P9): versions and lineage made again from the blobs alone, into an empty or a damaged catalog.

Each batch of versions is one transaction, so an interrupted rebuild is finished by the next one. What rows say stands:
a record that disagrees is a finding, and nothing is overwritten. A deleted version comes back deleted, one whose files
are gone comes back deleted and freed: it keeps its number, digest and lineage, and a push of its content revives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine.errors import EngineError
from registry.catalog import leases
from registry.collecting.protection import protected
from registry.errors import CorruptError, UsageError
from registry.findings.examine import examine
from registry.rebuilding.rebuildrows import Plan, add_edges, existing, reserve, restore
from registry.rebuilding.redraft import redraft
from registry.records.enclosures import parse_base, parse_report
from registry.records.recordscan import scan_records
from registry.values.refs import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from engine.format.facts import BaseFacts
    from registry.findings.examine import Examined
    from registry.handle import Handle
    from registry.records.draft import VersionDraft
    from registry.records.recordscan import Kept, Scan
    from registry.results import FileEntry, StoreFinding
    from registry.values.progress import Progress

_BATCH = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """References of the versions that were made again, and of those whose rows were completed."""

    made: tuple[str, ...]
    completed: tuple[str, ...]
    findings: tuple[StoreFinding, ...]


@dataclass(slots=True)
class _Work:
    """What one rebuild has to hand. Mutable: bases are read once each."""

    handle: Handle
    scan: Scan
    bases: dict[str, BaseFacts | None] = field(default_factory=dict)


def rebuild(handle: Handle, *, progress: Progress) -> Rebuilt:
    """Make what the store's records tell of and the catalog lacks. Safe beside pushes, and to run again."""
    handle.store.require()
    handle.store.take_over(handle.database)
    work = _Work(handle, scan_records(handle.store, progress))
    with handle.database.reading() as session:
        rows = existing(session)
    todo = [one for one in work.scan.versions if _is_missing(one, rows, work.scan)]
    fresh = {one.ref for one in todo if (one.best.record.name, one.best.record.number) not in rows}
    done: list[Kept] = []
    for start in range(0, len(todo), _BATCH):
        progress("making versions", start, len(todo))
        done += _make_batch(work, todo[start : start + _BATCH])
    for start in range(0, len(done), _BATCH):
        progress("drawing edges", start, len(done))
        work.scan.findings += handle.database.write(partial(add_edges, batch=done[start : start + _BATCH]))
    handle.database.write(lambda session: reserve(session, work.scan.highest, actor=handle.settings.actor))
    refs = [one.ref for one in done]
    return Rebuilt(
        tuple(ref for ref in refs if ref in fresh),
        tuple(ref for ref in refs if ref not in fresh),
        tuple(dict.fromkeys(work.scan.findings)),
    )


def _is_missing(one: Kept, rows: dict[tuple[str, int], tuple[str, bool, int]], scan: Scan) -> bool:
    record = one.best.record
    row = rows.get((record.name, record.number))
    if row is None:
        return True
    digest, whole, edges = row
    if digest != record.manifest:
        scan.find("record-disagrees", "error", one.ref, f"the row says {digest}, its record {record.manifest}")
        return False
    return not whole or edges < len({(parent.digest, parent.relation) for parent in record.parents})


def _make_batch(work: _Work, batch: Sequence[Kept]) -> list[Kept]:
    """Verify the files of some versions under a lease, then make their rows in one transaction."""
    handle = work.handle
    with handle.store.staging() as staging:
        digests = [digest for one in batch for digest in _digests(one)]
        with protected(handle, staging.folder, digests) as lease:
            folders = [staging.folder / str(place) for place in range(len(batch))]
            there = (_still_there(work, one) for one in batch)
            planned = (_plan(work, one, folder) for one, folder in zip(there, folders, strict=True) if one)
            plans = [plan for plan in planned if plan is not None]

            def make(session: Session) -> None:
                leases.share_publishing(session)
                leases.require(session, lease)
                for plan in plans:
                    restore(session, plan, actor=handle.settings.actor)
                leases.release(session, lease)

            handle.database.write(make)
    return [plan.kept for plan in plans]


def _digests(one: Kept) -> Iterator[str]:
    yield one.best.record.manifest
    yield from (record.digest for record in one.records)
    yield from (entry.sha256 for entry in one.files or ())
    yield from one.best.record.enclosures.values()


def _still_there(work: _Work, one: Kept) -> Kept | None:
    """The version without what went between the scan and the lease: a gc beside this may have taken it for an orphan.

    None with a finding where its manifest or the record that counts is gone.
    """
    exists = work.handle.store.exists
    if not exists(one.best.digest) or (one.files is not None and not exists(one.best.record.manifest)):
        work.scan.find("lost-version", "error", one.ref, "its number stays taken; its record or manifest just went")
        return None
    enclosed = {digest: size for digest, size in one.enclosed.items() if exists(digest)}
    records = tuple(record for record in one.records if record is one.best or exists(record.digest))
    return replace(one, records=records, enclosed=enclosed)


def _plan(work: _Work, one: Kept, folder: Path) -> Plan | None:
    """What the rows of a version should say; None with a finding where nothing can be made."""
    if one.files is None:  # the scan has named the manifest
        work.scan.find("lost-version", "error", one.ref, "its number stays taken; its manifest is lost")
        return None
    try:
        base = _base_facts(work, one)
        examined = _examined(work, one, one.files, folder)
        draft = _draft(work, one, one.files, examined, base)
    except (EngineError, UsageError) as error:
        work.scan.find("lost-version", "error", one.ref, f"its number stays taken; {error}")
        return None
    _compare(work.scan, one, draft)
    return Plan(one, draft, base, held=examined is not None)


def _examined(work: _Work, one: Kept, files: tuple[FileEntry, ...], folder: Path) -> Examined | None:
    """The files, every byte verified, read as an adapter; None where one of them is gone."""
    try:
        for entry in files:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            work.handle.store.copy_to(entry.sha256, folder / entry.path)
    except CorruptError as error:
        if one.best.record.origin.deleted_at is None:
            work.scan.find("lost-files", "error", one.ref, f"comes back as deleted, without its files: {error}")
        return None
    return examine(folder)


def _draft(
    work: _Work, one: Kept, files: tuple[FileEntry, ...], examined: Examined | None, base: BaseFacts | None
) -> VersionDraft:
    record = one.best.record
    report = None if record.report is None else _enclosed(work, one, record.report, parse_report)
    name = parse_name(record.name)
    return redraft(name, record, files, one.manifest_size, examined=examined, base=base, report=report)


def _base_facts(work: _Work, one: Kept) -> BaseFacts | None:
    facts = one.best.record.enclosures.get("base")
    if facts is None:
        return None
    if facts not in work.bases:
        work.bases[facts] = _enclosed(work, one, facts, parse_base)
    return work.bases[facts]


def _enclosed(work: _Work, one: Kept, digest: str, parse: Callable[[bytes], T]) -> T | None:
    """A blob that a record names, read; None with a finding where that fails."""
    try:
        return parse(work.handle.store.read_bytes(digest))
    except (CorruptError, UsageError) as error:
        work.scan.find("lost-enclosure", "warning", one.ref, str(error))
        return None


def _compare(scan: Scan, one: Kept, draft: VersionDraft) -> None:
    said = one.best.record.summary
    if said is not None and said.tensors_digest != draft.tensors_digest:
        message = f"the record says tensors {said.tensors_digest}, the files hold {draft.tensors_digest}"
        scan.find("record-disagrees", "warning", one.ref, message)
