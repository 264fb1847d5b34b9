"""config.json and the index of the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.materialize.place import PLAIN
from engine.merge.dtypes import LONG_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.materialize.outputs import Outputs
    from engine.materialize.shards import Shard
    from engine.materialize.task import Task

_DTYPE = ("dtype", "torch_dtype")
"""What transformers calls the dtype of the weights now, and what it did."""
_QUANTIZED = "quantization_config"


def result_config(
    base: Mapping[str, Any], outputs: Outputs, tasks: Sequence[Task], dtype: str | None
) -> dict[str, Any]:
    """The base's config with what the adapters and the dtype change, in the base's order; None takes a key away.

    Parts of a composite model state their dtype too. A quantisation that no tensor of the result has is dropped.
    """
    config = {**base, **outputs.config}
    if dtype is not None:
        config = _with_dtype(config, LONG_NAMES[dtype], own="model_type" in config)
    if _dequantized(tasks):
        config = _without(config, _QUANTIZED)
    return {key: value for key, value in config.items() if key not in outputs.config or value is not None}


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


def _dequantized(tasks: Sequence[Task]) -> bool:
    packed = any(task.source.encoding != PLAIN for task in tasks)
    return packed and all(task.target.encoding == PLAIN for task in tasks)


def _without(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        key: _without(value, name) if isinstance(value, dict) else value for key, value in config.items() if key != name
    }
