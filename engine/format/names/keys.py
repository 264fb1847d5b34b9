"""Reads PEFT's tensor names: which module a tensor belongs to and what it is there. By whole components only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

PREFIX = "base_model.model."
WRAPPER = "base_layer"
"""The component that PEFT puts in where it wraps a module; never part of the base model's own paths."""

Role = Literal[
    "A",
    "B",
    "embedding_A",
    "embedding_B",
    "magnitude",
    "lora_bias",
    "diag",
    "velora",
    "monteclora",
    "tokens",
    "base_layer",
    "parameter",
    "unknown",
]

_ROLES: tuple[tuple[tuple[str, ...], Role], ...] = (
    (("lora_A", "weight"), "A"),
    (("lora_B", "weight"), "B"),
    (("lora_embedding_A",), "embedding_A"),
    (("lora_embedding_B",), "embedding_B"),
    (("lora_B", "bias"), "lora_bias"),
    (("lora_magnitude_vector",), "magnitude"),
    (("lora_magnitude_vector", "weight"), "magnitude"),
    (("lora_diag",), "diag"),
    (("lora_velora_embed",), "velora"),
    (("token_adapter", "trainable_tokens_delta"), "tokens"),
    ((WRAPPER, "weight"), "base_layer"),
    ((WRAPPER, "bias"), "base_layer"),
)
_SAMPLER = "lora_monteclora_sampler"


@dataclass(frozen=True, slots=True)
class TensorKey:
    """A tensor's name, taken apart.

    `module` is the path of the module it belongs to, without `base_model.model.` but with PEFT's own `base_layer`
    where the name has one. Role `base_layer` is a base weight or bias under a wrapper, `parameter` any other name (a
    base model's own parameter, or a full copy), `unknown` one that speaks of LoRA in a way that PEFT does not write.
    """

    name: str
    module: str
    role: Role
    leaf: str


@lru_cache(maxsize=2**14)
def parse_key(name: str) -> TensorKey:
    """The parts of one LoRA file's tensor name; the prefix is optional."""
    parts = name.removeprefix(PREFIX).split(".")
    for suffix, role in _ROLES:
        if len(parts) > len(suffix) and tuple(parts[-len(suffix) :]) == suffix:
            return TensorKey(name, ".".join(parts[: -len(suffix)]), role, parts[-1])
    if _SAMPLER in parts[1:]:
        return TensorKey(name, ".".join(parts[: parts.index(_SAMPLER, 1)]), "monteclora", parts[-1])
    role = "unknown" if any(part.startswith("lora_") for part in parts) or len(parts) == 1 else "parameter"
    return TensorKey(name, ".".join(parts[:-1]), role, parts[-1])


def wrapped_path(module: str) -> str:
    """The module that the configuration's rules speak of: what stands before the first wrapper component.

    An attention block's `attn.base_layer.out_proj` follows the rules of `attn`, a nested parameter's
    `experts.base_layer` those of `experts`.
    """
    if WRAPPER not in module:
        return module
    parts = module.split(".")
    return ".".join(parts[: parts.index(WRAPPER)]) if WRAPPER in parts else module
