"""The recipe of an artifact: everything that determines its bytes, as canonical JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifacts.request import SHARD_SIZE, MaterializeRequest
from registry.operations import dtype_name, materialize_versions
from registry.records.draft import RecipeDraft

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.compat.engines.table import EngineTarget
    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.sources import Adapter

METHOD = "materialize"
SCHEMA = 1


def recipe_of(request: MaterializeRequest, adapters: Sequence[Adapter], base: BaseFolder | None) -> RecipeDraft:
    """Where nothing is left to chance there is no seed. Names are in it, because the result says them, and no place."""
    merged = request.kind == "merged"
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": request.kind,
        "base": None if base is None else _base(base),
        "parents": [{"digest": one.digest, "weight": one.weight, "name": one.label or None} for one in adapters],
        "dtype": None if request.dtype is None else dtype_name(request.dtype),
        "quantize": request.quantize,
        "rounding": request.rounding if merged else None,
        "seed": request.seed if request.rounding == "stochastic" else None,
        "shard_size": request.shard_size if merged else None,
        "rank": request.rank,
        "engine": None if request.target is None else engine_text(request.target),
        "tool": materialize_versions(request.quantize),
    }
    return RecipeDraft(METHOD, body)


def _base(base: BaseFolder) -> dict[str, Any]:
    return {"fingerprint": base.fingerprint, "files": base.files, "name": base.label or None}


def engine_text(target: EngineTarget) -> str:
    """What `parse_target` reads as this target, its release always said: tomorrow another one may be the newest."""
    head, colon, limits = target.asked.partition(":")
    release = "" if target.version is None or "@" in head else f"@{target.version}"
    return head + release + colon + limits


def request_of(recipe: Mapping[str, Any], names: Sequence[str], *, to: Path) -> MaterializeRequest:
    """The request that had this recipe, for the adapters of these names."""
    from engine.compat.engines.target import parse_target

    engine = recipe["engine"]
    return MaterializeRequest(
        adapters=tuple(names),
        kind=recipe["kind"],
        to=to,
        weights=tuple(parent["weight"] for parent in recipe["parents"]),
        target=None if engine is None else parse_target(engine),
        dtype=recipe["dtype"],
        quantize=recipe["quantize"],
        rounding=recipe["rounding"] or "nearest",
        seed=recipe["seed"] or 0,
        shard_size=recipe["shard_size"] or SHARD_SIZE,
        rank=recipe["rank"],
        lossy=True,
    )
