"""Everything that determines a materialised checkpoint, as JSON without a path or a time."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME
from engine.format.base import read_base
from engine.format.files.digest import tensors_digest
from engine.format.files.header import read_header
from engine.materialize.stored.packed import FOUR_BITS

if TYPE_CHECKING:
    from engine.materialize.request import Request, Source


def recipe_of(request: Request) -> dict[str, Any]:
    """The base by its fingerprint, the adapters by their tensors and configurations, the options, the tools."""
    return {
        "kind": "merged",
        "base": {"fingerprint": read_base(request.base).fingerprint},
        "adapters": [_adapter(source) for source in request.sources],
        "dtype": request.dtype,
        "quantize": request.quantize,
        "double_quantize": request.double_quantize if request.quantize in FOUR_BITS else None,
        "rounding": request.rounding,
        "seed": request.seed if request.rounding == "stochastic" else None,
        "shard_size": request.shard_size,
        "tools": {name: version(name) for name in _tools(request)},
    }


def canonical_digest(value: object) -> str:
    """`sha256:` + 64 hex of the value as JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _adapter(source: Source) -> dict[str, Any]:
    weights = source.path / WEIGHTS_NAME
    return {
        "name": source.name or None,
        "digest": source.digest,
        "weight": source.weight,
        "tensors_digest": tensors_digest(weights, read_header(weights)),
        "config_sha256": hashlib.sha256((source.path / CONFIG_NAME).read_bytes()).hexdigest(),
    }


def _tools(request: Request) -> list[str]:
    return ["adapter-registry", "torch", *(["bitsandbytes", "transformers"] if request.quantize else [])]
