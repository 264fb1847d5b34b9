"""A folder becomes a list of regular files to take and names left out. Nothing is read but the listing."""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.format.adapter import CONFIG_NAME, PICKLE_NAME, WEIGHTS_NAME
from engine.format.select import select_files
from registry.errors import IntakeError
from registry.files.disk import reading_beneath
from registry.values.paths import clashing, path_problem
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager
    from pathlib import Path

    from registry.files.staging import StagedFile


class Taken(Protocol):
    """A file that a version takes, wherever it lies. `path` is relative and portable; `size` is what a listing said."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def place(self) -> Path | None:
        """Where the file stays while it is pushed, if it does."""

    def open(self) -> AbstractContextManager[int]:
        """A descriptor of a regular file."""

    def check(self, copy: StagedFile) -> None:
        """CorruptError where the staged copy is not what its source promised."""


@dataclass(frozen=True, slots=True)
class IntakeFile:
    """A file to take. `size` is what the listing said; the staged copy decides."""

    path: str
    absolute: Path
    size: int

    @property
    def place(self) -> Path:
        """Where it lies; a push finds out whether it stays as it is."""
        return self.absolute

    @contextmanager
    def open(self) -> Iterator[int]:
        """A descriptor of the regular file, even if a link was put in its way after the scan: IntakeError then."""
        folder = self.absolute.parents[self.path.count("/")]
        manager = reading_beneath(folder, self.path)
        try:
            descriptor = manager.__enter__()
        except OSError as error:
            raise IntakeError(f"{self.absolute}: cannot be read: {error.strerror or error}") from error
        try:
            yield descriptor
        finally:
            manager.__exit__(None, None, None)

    def check(self, copy: StagedFile) -> None:
        """A local file promises nothing: its staged copy decides."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What makes the version, by path; what was left out, sorted, a whole folder as `name/`; and `source`, where it all
    comes from, as a person names it.
    """

    files: tuple[Taken, ...]
    left_out: tuple[str, ...]
    source: str


def scan(folder: Path, include: Sequence[str] = (), *, pickled: bool = False) -> Intake:
    """Chooses a version's files. `folder` itself may be a link; nothing beneath it that is taken may be.

    `include` globs are relative to the folder. IntakeError names what is missing, is no regular file, cannot be read,
    or has a name that is not portable; also a glob that matches nothing. `pickled`: a folder to convert, whose weights
    must be pickled.
    """
    listing = _listing(folder)
    if pickled and PICKLE_NAME in listing:
        include = (*include, PICKLE_NAME)
    chosen = select_files([name for name in listing if not name.endswith("/")], include)
    if chosen.unused:
        raise IntakeError(f"--include {_shown(chosen.unused[0])}: matches no file of {_shown(folder)}")
    _check_required(folder, chosen.missing, listing, pickled=pickled)
    files = tuple(_take(folder, path, listing[path]) for path in chosen.included)
    if pair := clashing(chosen.included):
        first, second = map(_shown, pair)
        raise IntakeError(f"{_shown(folder)}: {first} and {second} cannot lie side by side on every file system")
    return Intake(files, left_out_names(listing.keys() - set(chosen.included), chosen.included), str(folder))


def left_out_names(left_out: AbstractSet[str], included: Sequence[str]) -> tuple[str, ...]:
    """Left-out names as text, sorted; a folder of which nothing was taken as one `name/`."""
    touched = {path.split("/", 1)[0] for path in included if "/" in path}
    tops = {name: name.split("/", 1)[0] for name in left_out if "/" in name}
    shown = {f"{tops[name]}/" if name in tops and tops[name] not in touched else name for name in left_out}
    return tuple(sorted(map(_shown, shown)))


def _listing(folder: Path) -> dict[str, os.stat_result]:
    """Every file by relative path; a folder that is empty or may not be looked into as `name/`."""
    try:
        with os.scandir(folder):
            return dict(_walk(folder, ""))
    except NotADirectoryError:
        raise IntakeError(f"{_shown(folder)}: is no folder, expected an adapter's folder") from None
    except OSError as error:
        raise IntakeError(f"{_shown(folder)}: {error.strerror or error}") from None


def _walk(folder: Path, above: str) -> Iterator[tuple[str, os.stat_result]]:
    for entry in _entries(folder / above):
        known = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(known.st_mode):
            yield above + entry.name, known
            continue
        inside = list(_walk(folder, f"{above}{entry.name}/"))
        yield from inside or [(f"{above}{entry.name}/", known)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError:
        return []


def _check_required(
    folder: Path, missing: Sequence[str], listing: Mapping[str, os.stat_result], *, pickled: bool
) -> None:
    if CONFIG_NAME in missing:
        inside = sorted(name for name in listing if name.endswith(f"/{CONFIG_NAME}"))
        below = folder / inside[0].removesuffix(CONFIG_NAME) if inside else None
        hint = None if below is None else _convert(below) if pickled else f"adapters push {_shown(below)}"
        raise IntakeError(f"{_shown(folder)}: no {CONFIG_NAME} in it", hint=hint)
    if pickled and not missing:
        reason = f"{WEIGHTS_NAME} is there, nothing needs converting"
        raise IntakeError(f"{_shown(folder)}: {reason}", hint=f"adapters push {shlex.quote(_place(folder))} NAME")
    if missing and PICKLE_NAME in listing:
        if not pickled:
            reason = f"{PICKLE_NAME} is not taken, only safetensors is"
            raise IntakeError(f"{_shown(folder)}: {reason}", hint=_convert(folder))
    elif missing:
        raise IntakeError(f"{_shown(folder)}: no {PICKLE_NAME if pickled else missing[0]} in it")


def _convert(folder: Path) -> str:
    """The command that makes a folder to push of one with pickled weights."""
    place = _place(folder)
    target = f"{place if place.strip('./~') else './adapter'}-safetensors"
    return f"adapters convert {shlex.quote(place)} --to {shlex.quote(target)}"


def _place(folder: Path) -> str:
    """A folder as a command takes it."""
    place = _shown(folder).rstrip("/")
    return place if is_path(place) else f"./{place}"


def _take(folder: Path, path: str, known: os.stat_result) -> IntakeFile:
    place = folder / path
    if stat.S_ISLNK(known.st_mode):
        raise IntakeError(
            f"{_shown(place)}: is a symbolic link", hint=f"cp -rL {_shown(folder)} COPY, then name that copy"
        )
    if not stat.S_ISREG(known.st_mode):
        raise IntakeError(f"{_shown(place)}: is no regular file")
    if problem := path_problem(path):
        raise IntakeError(f"{_shown(place)}: the name {problem}")
    if not os.access(place, os.R_OK):
        raise IntakeError(f"{place}: cannot be read: Permission denied")
    return IntakeFile(path, place, known.st_size)


def _shown(name: object) -> str:
    """A name as text, also where its bytes are no UTF-8."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")
