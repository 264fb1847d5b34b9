"""A folder on the Hub becomes a version: fetched, hashed, then pushed like any other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.hub.client import connected
from registry.hub.fetch import fetch
from registry.hub.listing import snapshot
from registry.hub.place import is_hub, parse_place
from registry.push import check_allowed, push
from registry.values.labeltexts import check_texts
from registry.values.progress import silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from registry.handle import Handle
    from registry.hub.listing import HubTree
    from registry.hub.place import HubPlace
    from registry.push import PushRequest
    from registry.results import PushResult
    from registry.values.progress import Progress

SOURCE = "source"
"""The tag of a version that came from the Hub: `hf://org/name@` and the 40 hex of the commit."""


def push_path(handle: Handle, path: str, request: PushRequest, *, progress: Progress = silent) -> PushResult:
    """Publish a folder, or a place on the Hub where the text names one."""
    if is_hub(path):
        return push_from_hub(handle, request, parse_place(path), progress=progress)
    return push(handle, request, progress=progress)


def push_from_hub(handle: Handle, request: PushRequest, place: HubPlace, *, progress: Progress = silent) -> PushResult:
    """Publish what lies at a place on the Hub; the version's tag `source` names the very commit.

    Errors are those of `push`; NotFoundError, CorruptError and UnavailableError also speak of the Hub then.
    """
    check_texts(request.tags, request.metrics, request.message)
    check_allowed(request.allow)
    with connected(handle.settings) as api:
        return push_tree(handle, request, api, snapshot(api, place), progress=progress)


def push_tree(
    handle: Handle, request: PushRequest, api: HfApi, tree: HubTree, *, progress: Progress = silent
) -> PushResult:
    """Like `push_from_hub`, from a listing at hand."""
    source = str(tree.place)
    if request.tags.get(SOURCE, source) != source:
        raise UsageError(f"--tag {SOURCE}: is where the version comes from, {source}")
    intake = fetch(api, tree, request.include, progress)
    return push(handle, replace(request, intake=intake, tags={**request.tags, SOURCE: source}), progress=progress)
