"""Tensor names as PEFT writes them, from those that wrappers, injected models and single adapters' names have left."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import refused
from engine.format.keys import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.convert.rewrite.draft import Draft

# What torch.compile, DataParallel and FSDP put before and between the names of a model's modules.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_FACTORS = frozenset({"lora_A", "lora_B"})
_BARE = frozenset({"lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_diag"})


def peft_names(draft: Draft) -> Draft:
    """The draft with every tensor under the name that PEFT gives it; refuses where two would share one.

    Removes wrappers' components, a repeated prefix and the adapter's name behind `lora_A` and its like (the same in all
    tensors), and adds `base_model.model.` where it is absent.
    """
    if draft.config.get("peft_type") != "LORA":
        return draft  # other types have names of their own, some without the prefix
    adapters = {name for tensor in draft.tensors if (name := _adapter_name(_parts(tensor)))}
    if len(adapters) > 1:
        raise refused("adapters", f"tensors of several adapters: {', '.join(sorted(adapters))[:120]}; expected one")
    return renamed(draft, _peft_name)


def with_prefix(draft: Draft, prefix: str) -> Draft:
    """The draft with names that begin with `prefix.` instead of PEFT's `base_model.model.`."""
    return renamed(draft, lambda name: f"{prefix}.{name.removeprefix(PREFIX)}")


def renamed(draft: Draft, rename: Callable[[str], str]) -> Draft:
    """The draft with every name changed; refuses where two tensors would get one."""
    names = {name: rename(name) for name in draft.tensors}
    taken: dict[str, str] = {}
    for old, new in names.items():
        if new in taken:
            raise refused("names", f"tensors {taken[new]} and {old} would both be {new}", where=old)
        taken[new] = old
    return replace(draft, tensors={names[name]: made for name, made in draft.tensors.items()})


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return parts[1:] if parts[:2] == ["module", "base_model"] else parts


def _adapter_name(parts: list[str]) -> str | None:
    """The adapter's name in a tensor's, where it still has one."""
    for place, part in enumerate(parts[:-1]):
        behind = parts[place + 1 :]
        if part in _FACTORS and len(behind) == 2 and behind[1] in ("weight", "bias"):
            return behind[0]
        if part in _BARE and behind not in (["weight"], []) and len(behind) <= 2:
            return behind[0]
    return None


def _peft_name(name: str) -> str:
    parts = _parts(name)
    adapter = _adapter_name(parts)
    if adapter is not None:
        place = max(index for index, part in enumerate(parts) if part in _FACTORS or part in _BARE)
        del parts[place + 1]
        if parts[place] in _BARE:
            del parts[place + 1 :]
    plain = ".".join(parts)
    while plain.startswith(PREFIX + PREFIX):
        plain = plain.removeprefix(PREFIX)
    return plain if plain.startswith(PREFIX) else PREFIX + plain
