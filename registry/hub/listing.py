"""The files of a repo at one commit, with the hash that the Hub lists for each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from registry.errors import NotFoundError, UnavailableError
from registry.hub.client import asked
from registry.hub.faults import asking
from registry.hub.oid import Oid, parse_oid
from registry.hub.place import HubPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import HfApi

MOST_FILES = 20_000


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as listed. `oid` is what its content must hash to; `size` in bytes."""

    path: str
    size: int
    oid: Oid


@dataclass(frozen=True, slots=True)
class HubTree:
    """A folder of a repo at a commit: `place` names the commit, `files` are by path below the folder."""

    place: HubPlace
    files: Mapping[str, HubFile]


@dataclass(frozen=True, slots=True)
class HubHead:
    """A revision of a repo: `place` names its commit."""

    place: HubPlace
    private: bool


def head(api: HfApi, place: HubPlace) -> HubHead:
    """The commit that a revision is now; NotFoundError for a repo or revision that is not there or not for us."""
    info = asked(str(place), lambda: api.model_info(place.repo, revision=place.revision, timeout=30))
    return HubHead(HubPlace(place.repo, place.folder, _commit(info.sha, place)), private=bool(info.private))


def snapshot(api: HfApi, place: HubPlace) -> HubTree:
    """What is there now: the revision becomes a commit first, so that everything read later belongs together.

    NotFoundError for a repo, revision or folder that is not there or not for this token.
    """
    exact = head(api, place).place
    return HubTree(exact, files_at(api, exact))


def _commit(found: object, place: HubPlace) -> str:
    commit = parse_oid("git", found, path=str(place)).hex
    if place.is_commit and commit != place.revision:
        raise UnavailableError(f"{place}: the Hub answers with another commit, {commit}")
    return commit


def files_at(api: HfApi, place: HubPlace) -> dict[str, HubFile]:
    """The files below a folder by path; NotFoundError where a folder is named that has none."""
    with asking(str(place)):
        entries = api.list_repo_tree(
            place.repo, place.folder or None, recursive=True, revision=place.revision, repo_type="model"
        )
        listed = list(islice(entries, MOST_FILES + 1))
    if len(listed) > MOST_FILES:
        raise UnavailableError(f"{place}: more than {MOST_FILES} files", hint="name the adapter's folder")
    start = f"{place.folder}/" if place.folder else ""
    files: dict[str, HubFile] = {}
    for entry in listed:
        if getattr(entry, "blob_id", None) is None:
            continue
        if not isinstance(entry.path, str) or not entry.path.startswith(start):
            raise UnavailableError(f"{place}: the Hub lists a file that is not in it: {str(entry.path)[:200]!r}")
        files[entry.path.removeprefix(start)] = _file(entry)
    if not files and place.folder:
        raise NotFoundError(f"{place}: no such folder")
    return files


def _file(entry: Any) -> HubFile:
    size = entry.size
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise UnavailableError(f"{entry.path[:200]}: the Hub lists it without a size")
    if entry.lfs is not None:
        return HubFile(entry.path, size, parse_oid("sha256", entry.lfs.sha256, path=entry.path))
    return HubFile(entry.path, size, parse_oid("git", entry.blob_id, path=entry.path))
