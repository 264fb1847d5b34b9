"""Which layers get room for adapters: those of adapters, and those of a base that an engine gives room to.

A layer's width is the numbers that one unit of rank takes there: inputs + outputs, times the experts it holds.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.format.facts import BaseFacts, ModuleFacts

_INPUTS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tokens_embed", "tok_embeddings", "embeddings"}
)
_OUTPUTS = frozenset({"lm_head", "embed_out", "output"})
# Tables that are looked up by something else than a token: no engine adapts them.
_TABLES = frozenset(
    {"wpe", "embed_positions", "position_embeddings", "position_embedding", "token_type_embeddings",
     "relative_attention_bias", "embed_tokens_per_layer"}
)  # fmt: skip
# Parts of models that read images or sound; engines leave them alone unless told.
_TOWERS = frozenset(
    {"visual", "vision_tower", "vision_model", "audio_tower", "multi_modal_projector", "vision_embed_tokens",
     "vision_encoder", "embed_vision", "embed_audio", "connector"}
)  # fmt: skip
_FUSED = frozenset({"gate_up_proj", "w13"})


def leaf(name: str) -> str:
    """The last component of a path."""
    return name.rpartition(".")[2]


def adapter_rooms(modules: Iterable[ModuleFacts]) -> dict[str, int]:
    """Width of each module that an adapter has factors for, by its path in the base."""
    return {module.base_name: _width(module) for module in modules}


@lru_cache(1 << 16)
def _width(module: ModuleFacts) -> int:
    rank = (module.configured_rank or module.rank) if module.kind == "parameter" else module.rank
    return (prod(module.a_shape) + prod(module.b_shape)) // max(rank, 1)


def base_rooms(base: BaseFacts) -> dict[str, int]:
    """Width of each linear layer of a base's text model, experts included; no embeddings.

    A fused gate and up of experts counts two A factors, as where the two are adapted apart. Empty for a quantised
    base, whose packed weights do not tell their shapes.
    """
    if base.quantization is not None:
        return {}
    found = {}
    for path, shape in base.parameters.items():
        layer = path.removesuffix(".weight")
        if _TOWERS.isdisjoint(path.split(".")) and leaf(layer) not in _INPUTS | _OUTPUTS | _TABLES:
            if len(shape) == 2 and path.endswith(".weight"):
                found[layer] = sum(shape)
            elif len(shape) == 3 and "experts" in path.split("."):
                found[layer] = shape[0] * _expert_width(leaf(layer), shape[1:], base.config)
    return found


def embedding_rooms(base: BaseFacts) -> dict[str, int]:
    """Width of the input embedding and of the output layer, as `embed_tokens` and `lm_head`, tied or not."""
    tables = {leaf(path.removesuffix(".weight")): shape for path, shape in base.parameters.items() if len(shape) == 2}
    inputs = [shape for name, shape in tables.items() if name in _INPUTS]
    outputs = [shape for name, shape in tables.items() if name in _OUTPUTS]
    if not inputs:
        return {}
    return {"embed_tokens": sum(inputs[0]), "lm_head": sum((outputs or inputs)[0])}


def _expert_width(name: str, sides: tuple[int, ...], config: Mapping[str, object]) -> int:
    if name not in _FUSED:
        return sum(sides)
    hidden = config.get("hidden_size")
    inputs = hidden if isinstance(hidden, int) and hidden in sides else min(sides)
    return sum(sides) + inputs
