"""config.json and the index of the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.merge.dtypes import LONG_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.materialize.folder.shards import Shard

_DTYPE = ("dtype", "torch_dtype")
"""What transformers calls the dtype of the weights now, and what it did."""


def result_config(base: Mapping[str, Any], changes: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The base's config with `changes` and the dtype, in the base's order; a change to None takes a key away.

    Parts of a composite model state their dtype too.
    """
    merged = {**base, **changes}
    config = {key: value for key, value in merged.items() if key not in changes or value is not None}
    return config if dtype is None else _with_dtype(config, LONG_NAMES[dtype], own="model_type" in config)


def index_of(shards: Sequence[Shard], parameters: int | None) -> dict[str, Any]:
    """What lies in which file; `total_size` in bytes of the weights."""
    size = sum(place.size for shard in shards for place in shard.places.values())
    counted = {} if parameters is None else {"total_parameters": parameters}
    weight_map = {name: shard.file.name for shard in shards for name in shard.places}
    return {"metadata": {**counted, "total_size": size}, "weight_map": dict(sorted(weight_map.items()))}


def as_json(value: object) -> bytes:
    """As transformers lays out its files."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _with_dtype(config: Mapping[str, Any], name: str, *, own: bool) -> dict[str, Any]:
    changed = {
        key: name
        if key in _DTYPE and value is not None
        else _with_dtype(value, name, own=False)
        if isinstance(value, dict) and "model_type" in value
        else value
        for key, value in config.items()
    }
    if own and not any(key in config for key in _DTYPE):
        changed["dtype"] = name
    return changed
