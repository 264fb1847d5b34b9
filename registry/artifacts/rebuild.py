"""Rebuild: the recipe of an artifact carried out again, which gives the same digests or is told."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.artifacts import rows, stored
from registry.artifacts.basefolder import folder_of
from registry.artifacts.baseneeds import needed_base
from registry.artifacts.build import Job, build
from registry.artifacts.contents import difference
from registry.artifacts.places import place_of
from registry.artifacts.recipe import METHOD, request_of
from registry.artifacts.results import RebuildResult
from registry.artifacts.reuse import move_aside
from registry.artifacts.sources import Adapter, folder_digest
from registry.artifacts.upkeep import agree, verify_artifact
from registry.collecting.builds import building, writing
from registry.conversions.convert import require_free
from registry.errors import NotFoundError, RegistryError, UsageError
from registry.files.checkout import put
from registry.files.scratch import scratch_beside
from registry.models import Adapter as AdapterRow
from registry.models import Version
from registry.operations import Part, measure_again
from registry.pulls.pull import pull
from registry.records.draft import RecipeDraft
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.places import Place
    from registry.artifacts.results import ArtifactCheck
    from registry.artifacts.rows import Known
    from registry.handle import Handle
    from registry.values.progress import Notice, Progress


@dataclass(frozen=True, slots=True)
class Repetition:
    """An artifact with all that it was made from; `to` is where the build goes, None where it is only compared."""

    known: Known
    base: BaseFolder | None
    adapters: tuple[Adapter, ...]
    to: Path | None


def rebuild(handle: Handle, text: str, *, to: str | Path | None, progress: Progress, notice: Notice) -> RebuildResult:
    """Build it anew to `to`, or to a known place that is missing or changed, or only to compare.

    NotFoundError names the adapters and the base that are gone, unless the store has the artifact: then it comes from
    there. CorruptError names the tensor that came out otherwise.
    """
    with handle.database.reading() as session:
        known = rows.get(session, text, path=rows.path_of(text))
    wanted = None if to is None else handle.new_place(to)
    if wanted is not None:
        require_free(wanted)
    try:
        adapters = _adapters(handle, known)
        base = _base(handle, known, adapters)
    except NotFoundError as gone:
        with _place(known, wanted, notice) as place:
            return _restored(handle, known, place, gone)
    with (
        building(handle.settings.artifacts, known.recipe_digest, notice=notice),
        _place(known, wanted, notice) as place,
    ):
        notes = _repeat(handle, Repetition(known, base, adapters, place), progress)
    return RebuildResult(known.id, known.recipe_digest, known.digest, place, notes)


@contextmanager
def _place(known: Known, wanted: Path | None, notice: Notice) -> Iterator[Path | None]:
    """Where the artifact is to lie, which nobody else writes meanwhile; None where it lies already."""
    to = wanted or _lost_place(known)
    if to is None:
        yield None
        return
    with writing(to, notice=notice):
        if wanted is not None:
            require_free(wanted)
        yield to if wanted is not None or difference(to, known.contents) is not None else None


def _repeat(handle: Handle, job: Repetition, progress: Progress) -> tuple[str, ...]:
    known = job.known
    notes: tuple[str, ...] = ()
    beside = job.to or handle.settings.artifacts / "rebuilt"
    with scratch_beside(beside, mode=0o777) as scratch:
        request = request_of(known.recipe, [one.name for one in job.adapters], to=beside)
        recipe, place = RecipeDraft(METHOD, known.recipe), scratch / beside.name
        made = build(Job(handle, request, job.adapters, job.base, recipe, progress), place)
        agree(known, made, place)
        if job.to is None:
            return ()
        if os.path.lexists(job.to):
            notes = (f"{job.to} was changed: it is {move_aside(job.to)} now",)
        put(place, job.to)
    _record(handle, known, place_of(job.to, made.contents))
    return notes


def _restored(handle: Handle, known: Known, to: Path | None, gone: NotFoundError) -> RebuildResult:
    """Put at the free place `to` from the store, hashed; where that is not possible, `gone` tells what is missing."""
    if known.stored is None or to is None:
        raise gone
    if os.path.lexists(to):
        raise NotFoundError(str(gone), hint=f"the store has it: adapters artifacts rebuild {known.id} --to DIR")
    stored.restore(handle.store, known, to)
    _record(handle, known, place_of(to, known.contents))
    return RebuildResult(known.id, known.recipe_digest, known.digest, to, (f"not built: {gone}",), restored=True)


def _record(handle: Handle, known: Known, there: Place) -> None:
    handle.database.write(
        lambda session: rows.change(session, known.recipe_digest, lambda one: rows.with_place_of(one, there))
    )


def _lost_place(known: Known) -> Path | None:
    """The first place of this host that does not hold the artifact; None where one does, or there is none."""
    here = [Path(place.path) for place in known.places if place.here]
    lost = [place for place in here if difference(place, known.contents) is not None]
    return lost[0] if len(lost) == len(here) and lost else None


def _base(handle: Handle, known: Known, adapters: tuple[Adapter, ...]) -> BaseFolder | None:
    wanted, origin = known.recipe.get("base"), known.origins.get("base")
    if wanted is None or origin is None:
        return None
    if known.kind == "merged":
        found = folder_of(handle, wanted["fingerprint"], wanted["files"], origin["path"])
    else:
        request = request_of(known.recipe, [one.name for one in adapters], to=Path())
        found = needed_base(handle, replace(request, base=origin["name"]), adapters)
    found = found and replace(found, label=wanted["name"] or "")
    if found is None or found.fingerprint != wanted["fingerprint"]:
        raise NotFoundError(
            f"artifact {known.id}: its base {origin['name']} is gone: no folder holds {wanted['fingerprint']} as then, "
            f"not even {origin['path']}",
            hint="adapters base add PATH",
        )
    return found


def _adapters(handle: Handle, known: Known) -> tuple[Adapter, ...]:
    """Every adapter, or NotFoundError that names all that are missing."""
    named = zip(known.recipe["parents"], known.origins["parents"], strict=True)
    found = [(parent, name, _path(handle, parent["digest"], name)) for parent, name in named]
    missing = [f"{name} ({parent['digest']})" for parent, name, path in found if path is None]
    if missing:
        raise NotFoundError(
            f"artifact {known.id}: made from what is gone: {', '.join(missing)}",
            hint="adapters undelete REF, or push the same files again",
        )
    return tuple(
        Adapter(name, path, parent["digest"], parent["weight"], label=parent["name"] or "")
        for parent, name, path in found
        if path
    )


def _path(handle: Handle, digest: str, name: str) -> Path | None:
    """A folder with the version of this digest, whatever it is called by now; None where there is none."""
    if is_path(name) and _holds(Path(name), digest):
        return Path(name)
    with handle.database.reading() as session:
        alive = select(AdapterRow.namespace, AdapterRow.name, Version.number).join(Version)
        query = alive.where(Version.digest == digest, Version.deleted_at.is_(None)).order_by(Version.id)
        version = session.execute(query).first()
    if version is None:
        return None
    return pull(handle, handle.ref(f"{version.namespace}/{version.name}@{version.number}")).path


def _holds(folder: Path, digest: str) -> bool:
    try:
        return folder_digest(folder) == digest
    except RegistryError:
        return False


def measured(handle: Handle, text: str) -> ArtifactCheck:
    """How much of the adapters is in each weight of a merged checkpoint, measured on its files and what it was made of;
    CorruptError where a byte is wrong, NotFoundError where something it was made from is gone.
    """
    checked = verify_artifact(handle, text)
    if checked.artifact is None:
        raise NotFoundError(
            f"{checked.path}: the catalog does not know what it was made from", hint="verify without it"
        )
    with handle.database.reading() as session:
        known = rows.get(session, str(checked.artifact))
    if known.kind != "merged":
        raise UsageError(f"artifact {known.id} is {known.kind}: only merged weights are measured")
    adapters = _adapters(handle, known)
    base = _base(handle, known, adapters)
    assert base is not None
    parts = [Part(one.path, one.weight, one.digest, one.label) for one in adapters]
    told = measure_again(checked.path, base.path, parts)
    return replace(checked, report=told["report"])
