"""Convert: an adapter folder becomes another one whose weights can be pushed. Asks nothing of database or store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.format.adapter import PICKLE_NAME, WEIGHTS_NAME
from registry.errors import ConflictError
from registry.files.checkout import put
from registry.files.disk import CREATE, opened, reaching, sync_folders
from registry.files.intake import scan
from registry.files.scratch import scratch_beside
from registry.files.transfer import copy_hashed
from registry.operations import convert_pickled
from registry.results import ConvertedFile, ConvertResult
from registry.values.progress import silent

if TYPE_CHECKING:
    from engine.compat.finding import Finding
    from registry.files.intake import Intake
    from registry.values.progress import Progress


def convert(folder: Path, to: Path, *, progress: Progress = silent) -> ConvertResult:
    """Writes the version's files of `folder`, its pickled weights as safetensors, to the new folder `to`.

    All is fsynced in a folder beside `to`, then renamed: whatever stops it, `to` is as it was. ConflictError where
    something other than an empty folder is there; IntakeError and the engine's errors for what is in `folder`.
    """
    destination = Path(os.path.abspath(to))  # noqa: PTH100 (Path.absolute keeps `..`)
    require_free(destination)
    intake = scan(folder, pickled=True)
    label = f"converting {folder}"
    progress(label, 0, 1)
    with scratch_beside(destination, mode=0o777) as scratch:
        converted, findings = _fill(scratch, intake)
        put(scratch, destination)
    progress(label, 1, 1)
    return ConvertResult(destination, converted, intake.left_out, findings)


def require_free(destination: Path) -> None:
    """ConflictError unless a new folder can take this place."""
    if not os.path.lexists(destination):
        return
    with reaching(destination):
        taken = destination.is_symlink() or not destination.is_dir() or bool(os.listdir(destination))  # noqa: PTH208
    # a rename would pull the current folder away from under the caller's feet
    if taken or destination.samefile(Path.cwd()):
        raise ConflictError(f"{destination} exists already", hint="name a folder that does not exist")


def _fill(scratch: Path, intake: Intake) -> tuple[tuple[ConvertedFile, ...], tuple[Finding, ...]]:
    """The converted weights and copies of all other files, durable; what was converted, and what to know about it."""
    converted: list[ConvertedFile] = []
    findings: list[Finding] = []
    for file in intake.files:
        with file.open() as source:
            if file.path == PICKLE_NAME:
                done = convert_pickled(source, scratch / WEIGHTS_NAME, path=f"{intake.source}/{file.path}")
                converted.append(ConvertedFile(PICKLE_NAME, WEIGHTS_NAME, done.tensors, done.size))
                findings += done.findings
            else:
                copy_file(source, scratch / file.path)
    sync_tree(scratch)
    return tuple(converted), tuple(findings)


def sync_tree(folder: Path) -> None:
    """Make everything beneath a folder durable."""
    with reaching(folder):
        places = [folder, *folder.rglob("*")]
        for place in places:
            if place.is_file():
                with opened(place, os.O_RDONLY) as file:
                    os.fsync(file)
        sync_folders([place for place in places if place.is_dir()])


def copy_file(source: int, target: Path) -> None:
    """Copy an open file to a new place, making its folders."""
    with reaching(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(target, CREATE, mode=0o666) as descriptor:
            copy_hashed(source, descriptor)
