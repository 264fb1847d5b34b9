"""A module called with other parameters: what adapters that add to or replace a tensor itself have in common.

One `Replaced` stands for all such tensors of one calling module, so that an adapter that changes two of them runs once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from engine.errors import RuntimeStateError
from engine.model.kinds.exact import exact
from engine.model.sites.attention import attention_rows
from engine.model.sites.rowwise import leading, put, take
from engine.model.sites.seat import overrides, own_forward, sit_innermost, stand_up
from engine.model.sites.site import Site
from engine.model.sites.twin import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from engine.model.batches.batch import BatchPlan
    from engine.model.batches.switch import Switch
    from engine.model.kinds.kind import Kind


class TensorSite(Site):
    """One tensor, `leaf` of the module `module`, which adapters change; `path` is its dotted name in the model.

    `caller` is the module whose forward uses it, and `name` the tensor's dotted name there.
    """

    __slots__ = ("caller", "leaf", "name")

    def __init__(self, path: str, module: nn.Module, kind: Kind, switch: Switch) -> None:
        super().__init__(path, module, kind, switch)
        self.leaf = path.rpartition(".")[2]
        self.caller = module
        self.name = self.leaf

    def called_by(self, caller: nn.Module, name: str) -> None:
        """Say whose forward uses the tensor, where it is not its own module's."""
        self.caller, self.name = caller, name

    @property
    def owner(self) -> str:
        """The path of the module that holds the tensor."""
        return self.path.removesuffix(self.leaf).removesuffix(".")

    @property
    def tensor(self) -> Tensor:
        """The base's own, where and as it is now."""
        found: Tensor = getattr(self.module, self.leaf)
        return found

    def attach(self) -> None:
        group = next((layer for layer in overrides(self.caller) if isinstance(layer, Replaced)), None)
        if group is None:
            group = Replaced(self.path.removesuffix(f".{self.name}"), self.caller, self.switch)
            sit_innermost(self.caller, group, forward)
        group.sites.append(self)

    def detach(self) -> None:
        group = next(layer for layer in overrides(self.caller) if isinstance(layer, Replaced))
        group.sites.remove(self)
        if not group.sites:
            stand_up(self.caller, group)


class Replaced:
    """The tensors of one module that adapters change."""

    __slots__ = ("_forward", "module", "original", "path", "sites", "switch")

    def __init__(self, path: str, module: nn.Module, switch: Switch) -> None:
        self.path = path
        self.module = module
        self.switch = switch
        self.sites: list[TensorSite] = []
        self.original: Callable[..., Any] = module.forward
        own = own_forward(module)
        if own is None:
            raise RuntimeStateError(f"{path}: other code put its own forward on the module; take that away first")
        self._forward = own

    def tensors(self, slots: Sequence[int], factors: Sequence[float]) -> dict[str, Tensor]:
        """What the module computes with when these slots are on; nothing where none of them has a part here."""
        found = {}
        for site in self.sites:
            replaced = site.kind.replaced
            with exact(site.scales.device):
                tensor = replaced(site, slots, factors) if replaced else None
            if tensor is not None:
                found[site.name] = tensor
        return found

    def call(self, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The module's own forward, with these tensors."""
        if not tensors:
            return self.original(*args, **kwargs)
        return self._forward(twin(self.module, tensors), *args, **kwargs)


def forward(group: Replaced, *args: Any, **kwargs: Any) -> Any:
    """The module's result with what the slots say: of each row through its own adapter."""
    plan = group.switch.plan
    if plan is None:
        return group.original(*args, **kwargs)
    if plan.whole is not None:
        return group.call(group.tensors(plan.whole.slots, plan.whole.factors), args, kwargs)
    rows = attention_rows if isinstance(group.module, nn.MultiheadAttention) else _by_rows
    return rows(group, plan, *args, **kwargs)


def _by_rows(group: Replaced, plan: BatchPlan, *args: Any, **kwargs: Any) -> Any:
    """The base's result for all rows first, then each adapter's rows in their place; one set of tensors at a time."""
    result = group.original(*args, **kwargs)
    lead = leading(args, kwargs, group.path)
    first = lead.shape[0]
    for slot in plan.slots:
        tensors = group.tensors((slot,), (1.0,))
        if tensors:
            rows = plan.places(slot, first, lead.device, group.path)
            few = take(args, rows, first, group.path)
            part = group.call(tensors, few, take(dict(kwargs), rows, first, group.path))
            result = put(result, part, rows, first, group.path)
    return result
