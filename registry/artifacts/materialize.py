"""Materialise: the same request gives the artifact that is there, hashed again, and otherwise it is built."""

from __future__ import annotations

import os
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
from registry.artifacts.turn import building
from registry.artifacts.upkeep import agree
from registry.convert import require_free
from registry.errors import ConflictError, CorruptError
from registry.progress import silent, unheard

if TYPE_CHECKING:
    from engine.compat.finding import Finding
    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.rows import Known
    from registry.handle import Handle
    from registry.progress import Notice, Progress


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
    doubts = base_doubts(handle, base, adapters) if base is not None and request.kind == "merged" else ()
    job = Job(handle, request, adapters, base, recipe_of(request, adapters, base), progress)
    notes: list[str] = []
    if request.dry_run:
        return _forecast(job, doubts)
    with building(handle.settings.home / "artifacts", job.recipe.digest, notice=notice):
        known, reused = _found(job, notes) or (_built(job), None)
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
        notes=tuple(notes),
    )


def _forecast(job: Job, doubts: tuple[Finding, ...]) -> MaterializeResult:
    report = forecast(job)
    return MaterializeResult(
        None, job.recipe.body, report, recipe_digest=job.recipe.digest, size=report.get("size"), findings=doubts
    )


def _found(job: Job, notes: list[str]) -> tuple[Known, str] | None:
    """The artifact that is known, now at `to`, and how it came there; None where it has to be built."""
    with job.handle.database.reading() as session:
        known = rows.find(session, job.recipe.digest)
    if known is None:
        require_free(job.request.to)
        return None
    if _taken(job.request.to):
        if _right(job, known, notes):
            return _recorded(job), "kept"
        return None
    for place in known.places:
        if how := _brought(job, known, place.path, notes):
            return _recorded(job), how
    if known.stored is not None and _restored(job, known, notes):
        return _recorded(job), "restored"
    return None


def _taken(to: Path) -> bool:
    try:
        require_free(to)
    except ConflictError:
        return True
    return False


def _right(job: Job, known: Known, notes: list[str]) -> bool:
    """Whether the folder at `to` holds the artifact; one that held it and was changed is moved aside, and any other is
    ConflictError.
    """
    to = job.request.to
    wrong = difference(to, known.contents) if to.is_dir() and not to.is_symlink() else None
    if wrong is None and to.is_dir() and not to.is_symlink():
        if more := extra(to, known.contents):
            notes.append(f"{to} also holds {', '.join(more[:5])}, which is no part of the artifact")
        return True
    if not any(place.here and place.path == str(to) for place in known.places):
        raise ConflictError(f"{to} exists and holds something else", hint="name a folder that does not exist")
    aside = move_aside(to)
    notes.append(f"{to} was changed ({wrong}): it is {aside} now")
    return False


def _brought(job: Job, known: Known, path: str, notes: list[str]) -> str | None:
    """How the artifact came to `to` from another folder; None where that is gone, or changed and so forgotten."""
    if not os.path.isdir(path) or path == str(job.request.to):  # noqa: PTH112 (it never raises)
        return None
    try:
        return bring(Path(path), known.contents, job.request.to)
    except CorruptError as error:
        notes.append(f"{path} was changed, and is no longer taken for this artifact: {error}")
    rows.forget_place(job.handle.database, known, path)
    return None


def _restored(job: Job, known: Known, notes: list[str]) -> bool:
    try:
        stored.restore(job.handle.store, known, job.request.to)
    except CorruptError as error:
        notes.append(f"the store's copy is wrong, it is built again: {error}")
        return False
    return True


def _built(job: Job) -> Known:
    """Built and recorded; CorruptError where the recipe came to other bytes than before."""
    to = job.request.to
    with job.handle.database.reading() as session:
        before = rows.find(session, job.recipe.digest)
    made = build(job, to)
    if before is not None:
        agree(before, made, to)
    place = place_of(to, made.contents)
    return job.handle.database.write(lambda session: rows.record(session, made, place, actor=job.request.actor))


def _recorded(job: Job) -> Known:
    """The row, with `to` among its places."""

    def add(one: Known) -> Known:
        return rows.with_place_of(one, place_of(job.request.to, one.contents))

    return job.handle.database.write(lambda session: rows.change(session, job.recipe.digest, add))
