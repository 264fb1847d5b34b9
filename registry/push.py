"""Push: a folder becomes a version. The order of steps is promise P1 to P4; README.md tells it in words."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compat.rules.licence_rules import PARENT_RULES
from engine.compat.rules.table import RULES
from engine.errors import UnreadableError
from engine.format.adapter import WEIGHTS_NAME
from registry.basemodels import bases
from registry.basemodels.basefiles import read_base_place
from registry.collecting.protection import await_deletion, protected
from registry.errors import BlobGoingError, FindingsError, LeaseLostError, MissingBlobError, UsageError
from registry.files.intake import scan
from registry.files.manifest import manifest_bytes
from registry.findings.examine import Examined, documents, examine, named_base
from registry.origins.origin import Origin, base_licence, origin
from registry.origins.sidecar import Sidecar, read_sidecar
from registry.records.draft import Parent, RecipeDraft, VersionDraft
from registry.records.recordscan import refuse_record
from registry.results import FileEntry, PushResult
from registry.values.labeltexts import check_texts
from registry.values.progress import silent
from registry.values.strictjson import canonical_json
from registry.versions.publish import Published, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from engine.compat.finding import Finding
    from engine.format.facts import BaseFacts
    from registry.catalog.database import Database
    from registry.files.intake import Intake
    from registry.files.staging import StagedFile, Staging
    from registry.handle import Handle
    from registry.origins.provenance import Claim
    from registry.store.blobs import BlobStore
    from registry.values.progress import Progress
    from registry.values.refs import Name

_LONGEST_TYPE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What a caller wants pushed. `base` is a name, `base_path` an absolute place to read the base from; without both
    the config names it. `allow` names rules to pass. `intake` is what to take where that is chosen already; then
    `path` and `include` are not looked at. `given` is what the caller says of the version's provenance, `surroundings`
    what the environment and adapters.toml say.
    """

    path: Path
    name: Name
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None
    base: str | None = None
    base_path: Path | None = None
    parents: tuple[Parent, ...] = ()
    include: tuple[str, ...] = ()
    intake: Intake | None = None
    allow: tuple[str, ...] = ()
    recipe: RecipeDraft | None = None
    report: Mapping[str, Any] | None = None
    spectra: Mapping[str, Sequence[float]] = field(default_factory=dict)
    actor: str | None = None
    given: Mapping[str, Claim] = field(default_factory=dict)
    surroundings: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Base:
    """The base of a push: what the catalog knows of it, or what was `read` at the given path."""

    name: str | None
    facts: BaseFacts | None
    known: bool
    read: bool = False
    licence: str | None = None
    doubts: tuple[Finding, ...] = ()


def push(handle: Handle, request: PushRequest, *, progress: Progress = silent) -> PushResult:
    """Publish a folder as the next version of a name, or find the version that holds the same content.

    Raises IntakeError or engine.errors.UnreadableError for what cannot be taken, FindingsError where a rule refuses.
    """
    check_texts(request.tags, request.metrics, request.message)
    check_allowed(request.allow)
    intake = request.intake or scan(request.path, request.include)
    sidecar = Sidecar() if request.intake else read_sidecar(request.path)
    database, store = handle.database, handle.store
    with store.staging() as staging, ExitStack() as kept:
        files = _stage(staging, intake, kept, progress)
        with _called(staging.folder / "files", intake.source):
            examined = _examine(staging.folder / "files", files[WEIGHTS_NAME])
        made_by = origin(sidecar, staging.folder / "files", given=request.given, surroundings=_surroundings(request))
        base = _find_base(database, request, examined)
        findings = _judge(request, examined, base, files, made_by, subject=intake.source)
        draft = _with_origin(_draft(request, examined, base, findings, files), made_by)
        manifest = staging.add(manifest_bytes(draft.files), name="manifest")
        draft = replace(draft, manifest=manifest.digest, manifest_size=manifest.size)
        with protected(handle, staging.folder, draft.digests) as lease:
            store.place(*files.values(), manifest)
            published = _record(handle, staging, replace(draft, lease=lease), base)
    return _result(request, draft, published, intake)


def check_allowed(allow: tuple[str, ...]) -> None:
    """UsageError for a rule that there is not."""
    known = {rule.id for rule in RULES} | {rule.id for rule in PARENT_RULES}
    for rule in allow:
        if rule not in known:
            raise UsageError(f"rule {rule!r} is not known", hint="adapters check PATH names the rules that fired")


def _stage(staging: Staging, intake: Intake, kept: ExitStack, progress: Progress) -> dict[str, StagedFile]:
    """Durable copies by path: from here on nothing is read from the source again, but of large weights that go to a
    store whose own comparison tells when they have changed. `kept` holds these open.
    """
    total = sum(file.size for file in intake.files)
    staged: dict[str, StagedFile] = {}
    done = 0
    for file in intake.files:
        progress("copying", done, total)
        with file.open() as descriptor:
            place = file.place if file.path == WEIGHTS_NAME else None
            copy = staged[file.path] = staging.add(descriptor, name=f"files/{file.path}", place=place)
            file.check(copy)
            if copy.left is not None:
                # Some file systems (FUSE) number a file anew that nobody has open: it would pass for another.
                kept.callback(os.close, os.dup(descriptor))
            refuse_record(copy.path, copy.size, f"{intake.source}/{file.path}")
        done += file.size
    progress("copying", total, total)
    return staged


@contextmanager
def _called(staged: Path, source: str) -> Iterator[None]:
    """Errors about a copy, which is gone when they are read, tell of the file that was given."""
    try:
        yield
    except UnreadableError as error:
        if Path(error.path).is_relative_to(staged):
            error.call(f"{source}/{Path(error.path).relative_to(staged)}")
        raise


def _examine(folder: Path, weights: StagedFile) -> Examined:
    if weights.left is None:
        return examine(folder)
    try:
        return examine(folder, weights=weights.path)
    finally:
        with weights.opened():
            pass  # what was looked at is what was hashed


def _find_base(database: Database, request: PushRequest, examined: Examined) -> _Base:
    if request.base_path is not None:
        place = request.base_path
        return _Base(str(place), read_base_place(place), known=True, read=True, licence=base_licence(place))
    # A name is only looked up, also where it looks like a path: configs and parents come from strangers.
    named = named_base(examined.facts)
    name = request.base or named
    if name is None:
        return _Base(None, None, known=False)
    with database.reading() as session:
        row = bases.find(session, name)
        if row is None:
            return _Base(name, None, known=False)
        doubt = None if named is None else bases.other_base(row, name, bases.find(session, named), named)
        return _Base(name, bases.facts_of(row), known=True, doubts=() if doubt is None else (doubt,))


def _judge(
    request: PushRequest,
    examined: Examined,
    base: _Base,
    files: Mapping[str, StagedFile],
    made_by: Origin,
    *,
    subject: str,
) -> tuple[Finding, ...]:
    licensing = made_by.licensing(base.licence)
    findings = examined.findings(
        base=base.facts, base_known=base.known, base_name=base.name, files=files, licensing=licensing
    )
    findings += base.doubts
    if any(finding.severity == "error" and finding.rule not in request.allow for finding in findings):
        raise FindingsError(subject, findings)
    return findings


def _draft(
    request: PushRequest,
    examined: Examined,
    base: _Base,
    findings: tuple[Finding, ...],
    files: Mapping[str, StagedFile],
) -> VersionDraft:
    facts = examined.facts
    return VersionDraft(
        name=request.name,
        manifest="",
        manifest_size=0,
        files=tuple(FileEntry(path, file.digest, file.size) for path, file in sorted(files.items())),
        peft_type=facts.config.peft_type[:_LONGEST_TYPE],
        modules=len(facts.modules),
        rank=facts.rank,
        tensors_digest=examined.values.tensors_digest,
        parameters=examined.parameters,
        dtype=examined.dtype,
        norm=examined.norm,
        base_name=base.name,
        base_given=request.base is not None or request.base_path is not None,
        documents=documents(examined, spectra=request.spectra, report=request.report),
        tags=request.tags,
        metrics=request.metrics,
        aliases=request.aliases,
        parents=request.parents,
        recipe=request.recipe,
        findings=findings,
        message=request.message,
        actor=request.actor,
    )


def _surroundings(request: PushRequest) -> Mapping[str, Claim]:
    """What comes from elsewhere was not made here: only the pusher counts then."""
    if request.intake is None:
        return request.surroundings
    return {name: claim for name, claim in request.surroundings.items() if name == "pushed_by"}


def _with_origin(draft: VersionDraft, made_by: Origin) -> VersionDraft:
    sources = made_by.sources
    told = {"provenance": canonical_json({"sources": sources}).decode()} if sources else {}
    return replace(
        draft,
        metrics={**made_by.metrics, **draft.metrics},
        git_commit=made_by.value("git_commit"),
        run_id=made_by.value("run_id"),
        data_digest=made_by.value("data_digest"),
        licence=made_by.value("licence"),
        sources=sources,
        documents={**draft.documents, **told},
    )


def _record(handle: Handle, staging: Staging, draft: VersionDraft, base: _Base) -> Published:
    """Publish under the draft's lease. Where that ran out, while this machine slept perhaps, under a new one, if gc has
    left everything in place.
    """
    try:
        return _publish(handle, draft, base)
    except LeaseLostError as lost:
        with protected(handle, staging.folder, draft.digests) as lease:
            _require_placed(handle.store, draft, lost)
            return _publish(handle, replace(draft, lease=lease), base)


def _publish(handle: Handle, draft: VersionDraft, base: _Base) -> Published:
    while True:
        try:
            return handle.database.write(lambda session: _publish_in(session, handle.store, draft, base))
        except BlobGoingError as going:
            # A record equal to one that an interrupted push left behind: gc is at it.
            await_deletion(handle, [going.digest])


def _require_placed(store: BlobStore, draft: VersionDraft, lost: LeaseLostError) -> None:
    sizes = {draft.manifest: draft.manifest_size} | {entry.sha256: entry.size for entry in draft.files}
    try:
        whole = all(store.size(digest) == size for digest, size in sizes.items())
    except MissingBlobError:
        whole = False
    if not whole:
        raise lost


def _publish_in(session: Session, store: BlobStore, draft: VersionDraft, base: _Base) -> Published:
    return record(session, replace(draft, base_id=_base_row(session, base)), write_record=store.put_bytes)


def _base_row(session: Session, base: _Base) -> int | None:
    """The base's row in this transaction; one that was given as a path becomes known by it."""
    if base.name is None or not base.known:
        return None
    if base.facts is not None and base.read:
        bases.add(session, base.facts, (base.name,))
    row = bases.find(session, base.name)
    return None if row is None else row.id


def _result(request: PushRequest, draft: VersionDraft, published: Published, intake: Intake) -> PushResult:
    ref = f"{request.name}@{published.number}"
    notes = []
    if published.restored:
        notes.append(f"{ref} was deleted and is back: it holds this content")
    elif not published.created:
        newest = "" if published.newest == published.number else f"; the newest is {request.name}@{published.newest}"
        notes.append(f"unchanged: {ref} holds this content{newest}")
    if published.kept:
        notes.append(f"not applied: {', '.join(published.kept)}; {ref} keeps what it was first pushed with")
    if any(parent.version_id == published.version_id for parent in request.parents):
        notes.append(f"{ref} holds the content of its parent: no edge was recorded from it to itself")
    return PushResult(
        ref=ref,
        name=str(request.name),
        version=published.number,
        digest=draft.manifest,
        tensors_digest=draft.tensors_digest,
        created=published.created,
        left_out=intake.left_out,
        findings=draft.findings,
        newest=published.newest,
        notes=tuple(notes),
    )
