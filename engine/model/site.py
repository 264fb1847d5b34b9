"""One module of the model whose forward also adds what the slots say, and how it is put there and taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import RuntimeStateError
from engine.model.seat import sit_outermost, stand_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from engine.kernels.lora import Factors
    from engine.model.kinds.kind import Kind
    from engine.model.switch import Switch


class Site:
    """A module at `path`, its views of the arena (`stacks`: name → (slots, *shape)) and the switch that says which
    slots are on. `factors` are the views that the kernels take, of a kind that has them.

    Only the module's `forward` is replaced, on the object: its class, weights, names and hooks stay what they are, so
    that code which asks for `.weight.dtype` or walks the model sees no difference. `original` is the forward that was
    there. `numbers` are the slots' scales.
    """

    __slots__ = ("column", "factors", "kind", "module", "numbers", "original", "path", "stacks", "switch")

    def __init__(self, path: str, module: nn.Module, kind: Kind, switch: Switch) -> None:
        self.path = path
        self.module = module
        self.kind = kind
        self.switch = switch
        self.original: Callable[..., Any] = module.forward
        self.stacks: Mapping[str, Tensor] = {}
        self.column = 0
        self.numbers: Sequence[float] = ()
        self.factors: Factors

    def attach(self) -> None:
        """Let the module's calls come here."""
        sit_outermost(self.module, self, self.kind.forward)

    def __deepcopy__(self, memo: object) -> Site:
        raise RuntimeStateError(
            f"{self.path} has adapters on it; copy the model before they are attached, or detach() first"
        )

    def detach(self) -> None:
        """Give the module back the forward it had."""
        stand_up(self.module, self)
