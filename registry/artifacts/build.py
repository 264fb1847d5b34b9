"""The engine makes the files; what it tells of them is kept, and the rest is read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import DestinationError
from registry.artifacts.contents import contents_of
from registry.artifacts.plainfolder import write_plain
from registry.artifacts.rows import Made
from registry.files.checkout import put
from registry.files.disk import sync_folder
from registry.files.scratch import scratch_beside, scratch_folder
from registry.operations import Part, materialize_merged, plan_merged, write_images

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.sources import Adapter
    from registry.handle import Handle
    from registry.records.draft import RecipeDraft
    from registry.values.progress import Progress

IMAGES = "adapters.safetensors"
_OPTIONS = ("dtype", "quantize", "rounding", "seed", "shard_size", "lossy")


@dataclass(frozen=True, slots=True)
class Job:
    """A request with all that it names found, and the recipe that follows."""

    handle: Handle
    request: MaterializeRequest
    adapters: tuple[Adapter, ...]
    base: BaseFolder | None
    recipe: RecipeDraft
    progress: Progress

    @property
    def checkpoint(self) -> Path:
        """The folder of the base, for the forms that need one."""
        assert self.base is not None
        assert self.base.path is not None
        return self.base.path

    @property
    def origins(self) -> dict[str, Any]:
        """What it is made from, as people name it, so that it can be found again."""
        base = None if self.base is None else {"name": self.base.name, "path": str(self.base.path or "")}
        return {"base": base, "parents": [one.name for one in self.adapters]}


def build(job: Job, to: Path) -> Made:
    """Makes the artifact at the new place `to`, whole or not at all."""
    known: dict[tuple[str, str], str] = {}
    try:
        if job.request.kind == "merged":
            known, report = _merged(job, to)
        elif job.request.kind == "hotswap":
            report = _images(job, to)
        else:
            report = write_plain(job.handle, job.request, job.adapters[0], job.base, to=to)
    except DestinationError as error:
        error.path = job.request.to  # the place that was asked for, not the one beside it
        raise
    return Made(job.recipe, contents_of(to, known), _plain(report), job.origins)


def forecast(job: Job) -> dict[str, Any]:
    """What would be made; everything that does not fit is refused as it would be. A checkpoint is planned from headers,
    images and plain folders, which are small, are made in a scratch folder and dropped.
    """
    if job.request.kind == "merged":
        return plan_merged(_parts(job), job.checkpoint, job.request.to, options=_options(job))
    with scratch_folder(job.handle.settings.staging) as scratch:
        made = build(job, scratch / job.request.kind)
    return {**made.report, "size": sum(one.size for one in made.contents)}


def _merged(job: Job, to: Path) -> tuple[dict[tuple[str, str], str], Mapping[str, Any]]:
    label, progress = f"materialising {job.request.to.name}", job.progress
    done = materialize_merged(
        _parts(job),
        job.checkpoint,
        to,
        options=_options(job),
        jobs=job.request.jobs,
        resume=job.request.resume,
        progress=lambda done, total, _: progress(label, done, total),
    )
    return {(str(one["file"]), name): _digest(str(one["sha256"])) for name, one in done.tensors.items()}, done.report


def _images(job: Job, to: Path) -> Mapping[str, Any]:
    """One file in a folder, so that every form is a folder."""
    base = None if job.base is None else job.base.path
    folders = {one.label: one.path for one in job.adapters}
    with scratch_beside(to, mode=0o777) as scratch:
        told = write_images(folders, scratch / IMAGES, base=base, rank=job.request.rank, dtype=job.request.dtype)
        sync_folder(scratch)
        put(scratch, to)
    return told


def _parts(job: Job) -> list[Part]:
    return [Part(one.path, one.weight, one.digest, one.label) for one in job.adapters]


def _options(job: Job) -> dict[str, Any]:
    label = "" if job.base is None else job.base.label
    return {**{name: getattr(job.request, name) for name in _OPTIONS}, "base_name": label}


def _digest(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    from registry.values.plainjson import to_json

    return dict(to_json(dict(report)))
