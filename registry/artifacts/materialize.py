"""Materialise: the same request gives the artifact that is there, hashed again, and otherwise it is built."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifacts import rows, stored
from registry.artifacts.basefolder import base_doubts
from registry.artifacts.baseneeds import needed_base
from registry.artifacts.build import Job, build, forecast
from registry.artifacts.contents import difference, extra
from registry.artifacts.places import place_of
from registry.artifacts.recipe import recipe_of
from registry.artifacts.results import MaterializeResult
from registry.artifacts.reuse import bring, move_aside
from registry.artifacts.sources import fetch_adapters, with_image_names
from registry.artifacts.upkeep import agree
from registry.collecting.builds import building, writing
from registry.conversions.convert import require_free
from registry.errors import ConflictError, CorruptError, UsageError
from registry.files.checkout import put
from registry.files.disk import clipped, discard_tree
from registry.values.digests import digest_of, hex_of
from registry.values.progress import silent, unheard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.finding import Finding
    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.rows import Known
    from registry.handle import Handle
    from registry.values.progress import Notice, Progress


def materialize(
    handle: Handle, request: MaterializeRequest, *, progress: Progress = silent, notice: Notice = unheard
) -> MaterializeResult:
    """The artifact of the request at `request.to`, made or found; in a dry run what would be made.

    Raises ConflictError where `to` is something else, NotFoundError for adapters and bases that are not there,
    engine.errors.RefusedError for what does not fit.
    """
    adapters = fetch_adapters(handle, request.adapters, request.weights)
    adapters = with_image_names(adapters) if request.kind == "hotswap" else adapters
    base = needed_base(handle, request, adapters)
    _require_outside(request.to, base)
    doubts = base_doubts(handle, base, adapters) if base is not None and request.kind == "merged" else ()
    job = Job(handle, request, adapters, base, recipe_of(request, adapters, base), progress)
    if request.dry_run:
        return _forecast(job, doubts)
    attempt = Attempt(job)
    with (
        building(handle.settings.artifacts, job.recipe.digest, notice=notice),
        writing(request.to, notice=notice),
        _put_back(attempt),
    ):
        known, reused = _found(attempt) or (_built(job), None)
        lost = reused is None and known.stored is not None  # built although the store has it: its copy is wrong
        if lost or (request.store and known.stored is None):
            known = stored.keep(handle, known, request.to, anew=lost, progress=progress)
    return MaterializeResult(
        path=request.to,
        recipe=job.recipe.body,
        report=known.report,
        artifact=known.id,
        recipe_digest=known.recipe_digest,
        digest=known.digest,
        size=known.size,
        files=len(known.contents),
        reused=reused,
        stored=known.stored is not None,
        findings=doubts,
        notes=tuple(attempt.notes),
    )


@dataclass(slots=True)
class Attempt:
    """A job on its way: what to tell a person, and where the folder is that was in the way and had been changed."""

    job: Job
    notes: list[str] = field(default_factory=list)
    aside: Path | None = None


@contextmanager
def _put_back(attempt: Attempt) -> Iterator[None]:
    """Where the job fails, the folder that was moved aside is back in its place."""
    try:
        yield
    except BaseException:
        if attempt.aside is not None and not os.path.lexists(attempt.job.request.to):
            attempt.aside.rename(attempt.job.request.to)
        raise


def _require_outside(to: Path, base: BaseFolder | None) -> None:
    """Inside the base's folder a result would be one of the files that the next result takes over."""
    place = None if base is None or base.path is None else base.path.resolve()
    if place is not None and place in to.resolve().parents:
        raise UsageError(f"{to} is inside the base's folder {place}", hint="name a folder outside of it")


def _forecast(job: Job, doubts: tuple[Finding, ...]) -> MaterializeResult:
    with job.handle.database.reading() as session:
        known = rows.find(session, job.recipe.digest)
    if known is None or not _known_at(known, job.request.to):
        require_free(job.request.to)
    report = forecast(job)
    return MaterializeResult(
        None, job.recipe.body, report, recipe_digest=job.recipe.digest, size=report.get("size"), findings=doubts
    )


def _found(attempt: Attempt) -> tuple[Known, str] | None:
    """The artifact that is known, now at `to`, and how it came there; None where it has to be built."""
    job, to = attempt.job, attempt.job.request.to
    with job.handle.database.reading() as session:
        known = rows.find(session, job.recipe.digest)
    if known is None:
        require_free(to)
        return None
    if _taken(to):
        wrong = _difference(to, known)
        if wrong is None:
            _tell_extra(attempt, known)
            return _recorded(job), "kept"
        _displace(attempt, known, wrong)
    elif _left_over(job, known):
        return _recorded(job), "kept"
    for place in known.places:
        if how := _brought(attempt, known, place.path):
            return _recorded(job), how
    if known.stored is not None and _restored(attempt, known):
        return _recorded(job), "restored"
    return None


def _taken(to: Path) -> bool:
    try:
        require_free(to)
    except ConflictError:
        return True
    return False


def _difference(to: Path, known: Known) -> CorruptError | None:
    if to.is_symlink() or not to.is_dir():
        raise ConflictError(f"{to} exists and is no folder", hint="name a folder that does not exist")
    return difference(to, known.contents)


def _tell_extra(attempt: Attempt, known: Known) -> None:
    to = attempt.job.request.to
    if more := extra(to, known.contents):
        attempt.notes.append(f"{to} also holds {', '.join(more[:5])}, which is no part of the artifact")


def _known_at(known: Known, to: Path) -> bool:
    return any(place.here and place.path == str(to) for place in known.places)


def _displace(attempt: Attempt, known: Known, wrong: CorruptError) -> None:
    """Moves a folder aside that held the artifact and was changed; any other is ConflictError."""
    to = attempt.job.request.to
    if not _known_at(known, to):
        raise ConflictError(f"{to} exists and holds something else", hint="name a folder that does not exist")
    attempt.aside = move_aside(to)
    attempt.notes.append(f"{to} was changed ({wrong}): it is {attempt.aside} now")


def _left_over(job: Job, known: Known) -> bool:
    """Whether a build that died after its row was written lies beside `to`: then it is put there."""
    folder = _beside(job)
    if not folder.is_dir() or difference(folder, known.contents) is not None:
        return False
    put(folder, job.request.to)
    return True


def _brought(attempt: Attempt, known: Known, path: str) -> str | None:
    """How the artifact came to `to` from another folder; None where that is gone, or changed and so forgotten."""
    to = attempt.job.request.to
    if not os.path.isdir(path) or path == str(to):  # noqa: PTH112 (it never raises)
        return None
    try:
        return bring(Path(path), known.contents, to)
    except CorruptError as error:
        attempt.notes.append(f"{path} was changed, and is no longer taken for this artifact: {error}")
    rows.forget_place(attempt.job.handle.database, known, path)
    return None


def _restored(attempt: Attempt, known: Known) -> bool:
    try:
        stored.restore(attempt.job.handle.store, known, attempt.job.request.to)
    except CorruptError as error:
        attempt.notes.append(f"the store's copy is wrong, it is built again: {error}")
        return False
    return True


def _built(job: Job) -> Known:
    """Built beside `to`, recorded, then put there: no crash leaves a whole folder at `to` that no row knows.
    CorruptError where the recipe came to other bytes than before.
    """
    to, folder, database = job.request.to, _beside(job), job.handle.database
    with database.reading() as session:
        before = rows.find(session, job.recipe.digest)
    if folder.is_dir():
        discard_tree(folder)
    made = build(job, folder)
    if before is not None:
        agree(before, made, folder)
    place = place_of(to, made.contents, seen=folder)
    known = database.write(lambda session: rows.record(session, made, place, actor=job.request.actor))
    put(folder, to)
    return known


def _beside(job: Job) -> Path:
    """Where a build of this recipe for this place goes on, now and with --resume."""
    to = job.request.to
    both = digest_of(os.fsencode(to.name) + job.recipe.digest.encode())
    return to.with_name(f".{clipped(to.name, 100)}.{hex_of(both)[:16]}")  # a name has 255 bytes at most


def _recorded(job: Job) -> Known:
    """The row, with `to` among its places."""

    def add(one: Known) -> Known:
        return rows.with_place_of(one, place_of(job.request.to, one.contents))

    return job.handle.database.write(lambda session: rows.change(session, job.recipe.digest, add))
