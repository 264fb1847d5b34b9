"""Import: a bundle's versions, verified and checked to the last byte before the first row, then recorded together."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.browse.listing import labels_of
from registry.bundles.archive import expect_end, first_member, next_member
from registry.bundles.bundle import INDEX, LARGEST_INDEX, member
from registry.bundles.bundleindex import BundledVersion, Index, parse_index
from registry.catalog import leases
from registry.collecting.protection import protected
from registry.errors import FindingsError, IntakeError, UnavailableError, UsageError
from registry.files.disk import CREATE, NotRegularError, opened, reaching, reading
from registry.files.manifest import parse_manifest
from registry.files.staging import StagedFile
from registry.findings.examine import examine
from registry.models import Adapter, Alias, Version
from registry.push import check_allowed
from registry.rebuilding.redraft import errors_among, on_base, parents_here, redraft
from registry.records.enclosures import parse_base, parse_report
from registry.records.recordrows import keep_record
from registry.records.recordscan import refuse_record
from registry.results import ImportedVersion, ImportResult
from registry.values.digests import hex_of
from registry.values.refs import Name, parse_name
from registry.versions.publish import Published, record
from registry.versions.versionrows import add_parents, locked_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from sqlalchemy.orm import Session

    from engine.format.facts import BaseFacts
    from registry.handle import Handle
    from registry.records.draft import VersionDraft
    from registry.values.progress import Progress


@dataclass(frozen=True, slots=True)
class _Planned:
    """A version that may come in: its draft under its name here."""

    source: BundledVersion
    draft: VersionDraft
    base: BaseFacts | None


def import_bundle(
    handle: Handle,
    source: Path,
    *,
    names: Mapping[str, str],
    allow: tuple[str, ...],
    dry_run: bool,
    progress: Progress,
) -> ImportResult:
    """Bring in the versions of a bundle, all or none.

    UsageError for an archive that no export wrote, CorruptError for a blob that is not its digest's, FindingsError
    where a check-in rule refuses one of the versions.
    """
    check_allowed(allow)
    with handle.store.staging() as staging, _source(source) as file:
        index = parse_index(first_member(file, INDEX, LARGEST_INDEX))
        _check_room(index, staging.folder)
        staged = _stage(file, index, staging.folder, progress)
        places = [staging.folder / str(place) for place in range(len(index.versions))]
        planned = [_plan(one, staged, place, names) for one, place in zip(index.versions, places, strict=True)]
        _judge(source, planned, allow)
        if dry_run:
            with handle.database.reading() as session:
                return _result(source, planned, _forecast(session, planned), (), dry_run=True)
        needed = sorted({digest for one in planned for digest in one.draft.digests})
        with protected(handle, staging.folder, needed) as lease:
            handle.store.place(*(staged[digest] for digest in needed))
            done, notes = handle.database.write(lambda session: _record_all(session, handle, planned, lease))
    return _result(source, planned, done, notes, dry_run=False)


@contextmanager
def _source(path: Path) -> Iterator[BinaryIO]:
    manager = reading(path)
    try:
        descriptor = manager.__enter__()
    except NotRegularError:
        raise IntakeError(f"{path}: not a regular file") from None
    except OSError as error:
        raise IntakeError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            yield file
    finally:
        manager.__exit__(None, None, None)


def _check_room(index: Index, folder: Path) -> None:
    free, total = shutil.disk_usage(folder).free, sum(index.blobs.values())
    if total > free:
        raise UnavailableError(f"{folder}: the bundle says it holds {total} bytes, {free} are free")


def _stage(file: BinaryIO, index: Index, folder: Path, progress: Progress) -> dict[str, StagedFile]:
    """Every blob as a durable, verified file named by its digest's hex, which is no name of the archive's."""
    staged, done, total = {}, 0, sum(index.blobs.values())
    for digest, size in index.blobs.items():
        progress("verifying", done, total)
        path = folder / hex_of(digest)
        with reaching(path), opened(path, CREATE) as descriptor, os.fdopen(os.dup(descriptor), "wb") as target:
            os.fchmod(descriptor, 0o444)
            next_member(file, member(digest), size, digest, target.write)
            target.flush()
            os.fsync(descriptor)
        staged[digest] = StagedFile(path, digest, size)
        done += size
    expect_end(file)
    progress("verifying", total, total)
    return staged


def _plan(source: BundledVersion, staged: Mapping[str, StagedFile], folder: Path, names: Mapping[str, str]) -> _Planned:
    """The draft of a version, its facts read from its files."""
    said = source.record
    manifest = _content(staged, said.manifest)
    files = parse_manifest(manifest)
    for entry in files:
        found = staged.get(entry.sha256)
        if found is None or found.size != entry.size:
            raise UsageError(f"not a bundle: {source.ref} names {entry.path}, which is not in it")
        refuse_record(found.path, found.size, f"{source.ref}/{entry.path}")
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry.path).hardlink_to(found.path)
    enclosed = {role: _content(staged, digest) for role, digest in said.enclosures.items()}
    facts = parse_base(enclosed["base"]) if "base" in enclosed else None
    report = parse_report(enclosed["report"]) if "report" in enclosed else None
    name = _renamed(said.name, names)
    draft = redraft(name, said, files, len(manifest), examined=examine(folder), base=facts, report=report)
    return _Planned(source, replace(draft, tags=source.tags, metrics=source.metrics), facts)


def _content(staged: Mapping[str, StagedFile], digest: str) -> bytes:
    if digest not in staged:
        raise UsageError(f"not a bundle: {digest} is named and not in it")
    return staged[digest].path.read_bytes()


def _renamed(name: str, names: Mapping[str, str]) -> Name:
    """What a version is called here: its whole name mapped, or else its namespace."""
    namespace, _, own = name.partition("/")
    mapped = names.get(name) or (f"{names[namespace]}/{own}" if namespace in names else name)
    return parse_name(mapped, namespace=namespace)


def _judge(source: Path, planned: Sequence[_Planned], allow: tuple[str, ...]) -> None:
    if any(errors_among(one.draft.findings, allow) for one in planned):
        raise FindingsError(str(source), [finding for one in planned for finding in one.draft.findings])


def _record_all(
    session: Session, handle: Handle, planned: Sequence[_Planned], lease: str
) -> tuple[list[Published], tuple[str, ...]]:
    """All versions, then their edges; in one transaction, so that a bundle comes in whole or not at all."""
    leases.require(session, lease)
    notes: list[str] = []
    done = [_record_one(session, handle, one, notes) for one in planned]
    ids = {one.source.ref: published.version_id for one, published in zip(planned, done, strict=True)}
    for one, published in zip(planned, done, strict=True):
        said = one.source.record.parents
        pairs = zip(parents_here(session, said), said, strict=True)
        mine = tuple(replace(parent, version_id=ids.get(told.ref or "", parent.version_id)) for parent, told in pairs)
        if add_parents(session, published.version_id, mine):
            keep_record(session, session.get_one(Version, published.version_id), handle.store.put_bytes)
    leases.release(session, lease)
    return done, tuple(notes)


def _record_one(session: Session, handle: Handle, one: _Planned, notes: list[str]) -> Published:
    wanted = one.source.record
    adapter = locked_adapter(session, one.draft.name)
    here = session.scalar(select(Version).where(Version.adapter_id == adapter.id, Version.digest == one.draft.manifest))
    draft = replace(one.draft, actor=handle.settings.actor)
    if here is not None:  # labels that are here stay as they are
        labels = labels_of(session, [here.id])
        draft = replace(
            draft,
            tags={key: value for key, value in draft.tags.items() if key not in labels.tags[here.id]},
            metrics={key: value for key, value in draft.metrics.items() if key not in labels.metrics[here.id]},
        )
    taken = set(session.scalars(select(Alias.name).where(Alias.adapter_id == adapter.id)))
    draft = replace(draft, aliases=tuple(alias for alias in one.source.aliases if alias not in taken))
    draft = on_base(session, draft, wanted, one.base)
    published = record(session, draft, write_record=handle.store.put_bytes, number=wanted.number)
    if published.number != wanted.number:
        notes.append(f"{one.source.ref} is {draft.name}@{published.number} here")
    for alias in sorted(taken.intersection(one.source.aliases)):
        at = session.scalar(select(Alias.version_id).where(Alias.adapter_id == adapter.id, Alias.name == alias))
        if at != published.version_id:
            notes.append(f"alias {alias} of {draft.name} stays where it is")
    return published


def _forecast(session: Session, planned: Sequence[_Planned]) -> list[Published]:
    """What `_record_all` would do as things are now."""
    last: dict[Name, int] = {}
    found = []
    for one in planned:
        name = one.draft.name
        mine = select(Adapter).where(Adapter.namespace == name.namespace, Adapter.name == name.name)
        adapter = session.scalar(mine)
        here = None
        if adapter is not None:
            last.setdefault(name, adapter.last_number)
            same = (Version.adapter_id == adapter.id, Version.digest == one.draft.manifest)
            here = session.scalar(select(Version).where(*same))
        number = max(last.get(name, 0) + 1, one.source.record.number) if here is None else here.number
        last[name] = max(last.get(name, 0), number)
        found.append(Published(0, number, here is None, number))
    return found


def _result(
    source: Path, planned: Sequence[_Planned], done: Sequence[Published], notes: tuple[str, ...], *, dry_run: bool
) -> ImportResult:
    versions = tuple(
        ImportedVersion(
            ref=f"{one.draft.name}@{published.number}",
            name=str(one.draft.name),
            version=published.number,
            digest=one.draft.manifest,
            created=published.created,
            source=one.source.ref,
        )
        for one, published in zip(planned, done, strict=True)
    )
    findings = tuple(dict.fromkeys(finding for one in planned for finding in one.draft.findings))
    return ImportResult(str(source), versions, findings, notes, dry_run)
