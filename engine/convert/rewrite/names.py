"""Tensor names as PEFT writes them, from those that wrappers, injected models and single adapters' names have left."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import refused
from engine.format.names.keys import PREFIX
from engine.format.names.peftnames import adapter_name, peft_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.convert.rewrite.draft import Draft


def peft_names(draft: Draft) -> Draft:
    """The draft with every tensor under the name that PEFT gives it; refuses where two would share one.

    Removes wrappers' components, a repeated prefix and the adapter's name behind `lora_A` and its like (the same in all
    tensors), and adds `base_model.model.` where it is absent.
    """
    if draft.config.get("peft_type") != "LORA":
        return draft  # other types have names of their own, some without the prefix
    adapters = {name for tensor in draft.tensors if (name := adapter_name(tensor))}
    if len(adapters) > 1:
        raise refused("adapters", f"tensors of several adapters: {', '.join(sorted(adapters))[:120]}; expected one")
    return renamed(draft, peft_name)


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
