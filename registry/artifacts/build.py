"""The engine makes the files; what they hold is told by it, and the rest is read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifacts.contents import contents_of
from registry.artifacts.rows import Made
from registry.operations import Part, materialize_merged, plan_merged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.sources import Adapter
    from registry.draft import RecipeDraft
    from registry.progress import Progress


def build(
    request: MaterializeRequest,
    adapters: Sequence[Adapter],
    base: BaseFolder | None,
    recipe: RecipeDraft,
    *,
    to: Path,
    progress: Progress,
) -> Made:
    """Makes the artifact at the new place `to`, whole or not at all."""
    label = f"materialising {request.to.name}"
    assert base is not None
    done = materialize_merged(
        _parts(adapters),
        base.path,
        to,
        options=_options(request),
        jobs=request.jobs,
        resume=request.resume,
        progress=lambda done, total, _: progress(label, done, total),
    )
    contents = contents_of(to, _told(done.tensors))
    return Made(recipe, contents, _plain(done.report), origins(adapters, base))


def forecast(request: MaterializeRequest, adapters: Sequence[Adapter], base: BaseFolder | None) -> dict[str, Any]:
    """What would be made, from headers alone: everything that does not fit is refused as it would be."""
    assert base is not None
    return plan_merged(_parts(adapters), base.path, request.to, options=_options(request))


def origins(adapters: Sequence[Adapter], base: BaseFolder | None) -> dict[str, Any]:
    """What it was made from, as people name it, so that it can be found again."""
    return {
        "base": None if base is None else {"name": base.name, "path": str(base.path)},
        "parents": [one.name for one in adapters],
    }


_OPTIONS = ("dtype", "quantize", "rounding", "seed", "shard_size", "lossy")


def _parts(adapters: Sequence[Adapter]) -> list[Part]:
    return [Part(one.path, one.weight, one.digest, one.name) for one in adapters]


def _options(request: MaterializeRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in _OPTIONS}


def _told(tensors: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    return {(str(one["file"]), name): _digest(str(one["sha256"])) for name, one in tensors.items()}


def _digest(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    from registry.plainjson import to_json

    return dict(to_json(dict(report)))
