"""Files come through the library's cache, are hashed here, and become what a push takes."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.format.adapter import CONFIG_NAME, PICKLE_NAME
from engine.format.select import select_files
from registry.errors import CorruptError, IntakeError, UnavailableError
from registry.files.disk import opened, reading_beneath
from registry.files.intake import Intake, left_out_names
from registry.hub.faults import asking
from registry.hub.meter import meter
from registry.hub.oid import Oid
from registry.values.paths import clashing, path_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import HfApi

    from registry.files.staging import StagedFile
    from registry.hub.listing import HubFile, HubTree
    from registry.hub.place import HubPlace
    from registry.values.progress import Progress

_SIZES = re.compile(r"size (\d+) but has size (\d+)")


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A downloaded file. It is read from `cached`, relative to the cache's `root`, no link followed on the way."""

    path: str
    size: int
    oid: Oid
    root: Path
    cached: str

    @property
    def place(self) -> None:
        """A cache may be cleared at any time."""

    @contextmanager
    def open(self) -> Iterator[int]:
        """A descriptor of the cache's own regular file."""
        with reading_beneath(self.root, self.cached) as descriptor:
            yield descriptor

    def check(self, copy: StagedFile) -> None:
        """CorruptError where the staged copy is not what the Hub listed."""
        with opened(copy.path, 0) as descriptor:
            found = Oid("sha256", copy.digest.removeprefix("sha256:"))
            self.compare(found if self.oid.kind == "sha256" else self.oid.of_file(descriptor))

    def compare(self, found: Oid) -> None:
        """CorruptError where a hash is not the listed one."""
        if found != self.oid:
            raise CorruptError(self.path, expected=str(self.oid), actual=str(found))


def fetch(api: HfApi, tree: HubTree, include: Sequence[str], progress: Progress) -> Intake:
    """Downloads what a version takes of a folder, and nothing else. Every file is hashed against the listing.

    IntakeError for what a local folder would be refused for; CorruptError where bytes are wrong also when asked again.
    """
    chosen = select_files(tree.files, include)
    _check_choice(tree, chosen.missing, chosen.included, chosen.unused)
    wanted = {path: tree.files[path] for path in chosen.included}
    _check_room(sum(file.size for file in wanted.values()))
    files = tuple(_fetched(api, tree, path, file, progress) for path, file in wanted.items())
    return Intake(files, left_out_names(set(chosen.left_out), chosen.included), str(tree.place))


def _check_choice(tree: HubTree, missing: Sequence[str], included: Sequence[str], unused: Sequence[str]) -> None:
    place = tree.place
    if unused:
        raise IntakeError(f"--include {unused[0]}: matches no file of {place}")
    if CONFIG_NAME in missing:
        inside = sorted(path for path in tree.files if path.endswith(f"/{CONFIG_NAME}") and path_problem(path) is None)
        below = None if not inside else f"{str(place).partition('@')[0]}/{inside[0].removesuffix(f'/{CONFIG_NAME}')}"
        hint = None if below is None else f"adapters push {below} NAME"
        raise IntakeError(f"{place}: no {CONFIG_NAME} in it", hint=hint)
    if missing and PICKLE_NAME in tree.files:
        raise IntakeError(f"{place}: {PICKLE_NAME} is not taken, only safetensors is", hint=_convert(place))
    if missing:
        raise IntakeError(f"{place}: no {missing[0]} in it")
    for path in included:
        if problem := path_problem(path):
            raise IntakeError(f"{place}: {path[:200]!r}: the name {problem}")
    if pair := clashing(included):
        raise IntakeError(f"{place}: {pair[0]} and {pair[1]} cannot lie side by side on every file system")


def _convert(place: HubPlace) -> str:
    """The commands that make a folder to push of a repo with pickled weights."""
    folder = f"./{place.repo.partition('/')[2]}"
    fetch = ("hf", "download", place.repo, "--include", place.within("adapter_*"), "--local-dir", folder)
    convert = ("adapters", "convert", f"{folder}/{place.folder}".rstrip("/"), "--to", f"{folder}-safetensors")
    return f"{shlex.join(fetch)} && {shlex.join(convert)}"


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _check_room(needed: int) -> None:
    place = _cache()
    existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UnavailableError(f"{place}: {needed} bytes are to come, and {free} are free")


def _fetched(api: HfApi, tree: HubTree, path: str, file: HubFile, progress: Progress) -> FetchedFile:
    """The file, good; what was wrong in the cache is asked for once more."""
    try:
        return _checked(api, tree, path, file, progress, again=False)
    except CorruptError:
        return _checked(api, tree, path, file, progress, again=True)


def _checked(api: HfApi, tree: HubTree, path: str, file: HubFile, progress: Progress, *, again: bool) -> FetchedFile:
    found = _in_cache(_download(api, tree, file, progress, again=again), path, file)
    with found.open() as descriptor:
        found.compare(found.oid.of_file(descriptor))
    return found


def _download(api: HfApi, tree: HubTree, file: HubFile, progress: Progress, *, again: bool) -> Path:
    place = tree.place
    what = f"{place}: {file.path}"
    try:
        with asking(what):
            found = api.hf_hub_download(
                place.repo,
                file.path,
                revision=place.revision,
                force_download=again,
                tqdm_class=meter(file, progress, f"fetching {file.path}"),
            )
            return Path(found)
    except UnavailableError as error:
        # The library compares sizes and says so in words alone.
        if sizes := _SIZES.search(str(error)):
            raise CorruptError(what, expected=f"{sizes[1]} bytes", actual=f"{sizes[2]} bytes") from None
        raise


def _in_cache(pointer: Path, path: str, file: HubFile) -> FetchedFile:
    """The regular file that the cache's links lead to: it is built of links within itself, and others are refused."""
    root, real = _cache().resolve(), pointer.resolve()
    if not real.is_relative_to(root) or not real.is_file():
        raise IntakeError(f"{pointer}: leads out of the cache at {root}", hint=f"rm {pointer}")
    return FetchedFile(path, file.size, file.oid, root, str(real.relative_to(root)))
