"""One module of the model whose forward also adds what the slots say, and how it is put there and taken away."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from engine.errors import RuntimeStateError
from engine.model.sites.seat import sit_outermost, stand_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from engine.kernels.lora import Factors
    from engine.model.batches.switch import Switch
    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Kind


class Site:
    """A module at `path`, its views of the arena (`stacks`: name → (slots, *shape)) and the switch that says which
    slots are on. `factors` are the views that the kernels take, of a kind that has them; `scales` and `factors_of`
    (slots,), and the same as numbers, say what multiplies a low-rank term and how much of an adapter there shall be.
    `leaves` are the tensors of a slot that take gradients, in place of its views.

    Only the module's `forward` is replaced, on the object: its class, weights, names and hooks stay what they are, so
    that code which asks for `.weight.dtype` or walks the model sees no difference. `original` is the forward that was
    there. `numbers` are the slots' scales.
    """

    __slots__ = (
        "column", "dtype", "factor_numbers", "factors", "factors_of", "kind", "leaves", "module", "numbers", "original",
        "path", "plain", "scales", "stacks", "switch",
    )  # fmt: skip

    def __init__(self, path: str, module: nn.Module, kind: Kind, switch: Switch) -> None:
        self.path = path
        self.module = module
        self.kind = kind
        self.switch = switch
        self.original: Callable[..., Any] = module.forward
        self.stacks: Mapping[str, Tensor] = {}
        self.column = 0
        self.plain = True
        self.leaves: dict[int, tuple[Part, Mapping[str, Tensor]]] = {}
        self.factors: Factors
        self.dtype: torch.dtype
        self.scales: Tensor
        self.factors_of: Tensor
        self.numbers: Sequence[float]
        self.factor_numbers: Sequence[float]

    @property
    def owner(self) -> str:
        """The path of the module."""
        return self.path

    def sections(self, slot: int) -> dict[str, Tensor]:
        """The sections of one slot; those of its leaves, and computed from them, where it has some."""
        found = {name: stack[slot] for name, stack in self.stacks.items()}
        if slot in self.leaves:
            part, leaves = self.leaves[slot]
            found |= leaves
            found |= self.kind.derived(part, leaves)
        return found

    def attach(self) -> None:
        """Let the module's calls come here."""
        sit_outermost(self.module, self, _called)

    def __reduce__(self) -> str:
        raise RuntimeStateError(f"{self.path} has adapters on it; save the model's state_dict, or detach() first")

    def __deepcopy__(self, memo: object) -> Site:
        raise RuntimeStateError(
            f"{self.path} has adapters on it; copy the model before they are attached, or detach() first"
        )

    def detach(self) -> None:
        """Give the module back the forward it had."""
        stand_up(self.module, self)


def _called(site: Site, *args: Any, **kwargs: Any) -> Any:
    """The kind's forward, its first argument by place also where the caller named it."""
    if kwargs and not args:
        name = _first_of(type(site.module).forward)
        if name in kwargs:
            args = (kwargs.pop(name),)
    return site.kind.forward(site, *args, **kwargs)


@cache
def _first_of(forward: Callable[..., Any]) -> str:
    """What a class's forward calls its first argument, after the module itself."""
    return list(inspect.signature(forward).parameters)[1]
