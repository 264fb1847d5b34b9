"""What a kind of module must be able to do: one row of the table of kinds, all plain functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from engine.model.fitting.part import Part
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site

Shape = tuple[int, ...]
DERIVING = frozenset({"E", "bias", "magnitude"})


def _no_roles(_part: Part) -> dict[str, Shape]:
    return {}


def _nothing(_part: Part, _sections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of module and how an adapter acts on it.

    `holds(module)`: whether the module is of this kind. `shapes(module, want)`: the sections of its part of an
    image, by name. `raw(part, tensors)`: an adapter's tensors, by role, as those sections at its own rank.
    `stored(views, part)`: the tensors again, by role. `forward(site, ...)`: the module's result with the slots' part.
    `merged(site, values, views, part, factor)`: the module's parameters that the adapter changes, by name, with
    `factor` times the adapter in them; `values` are their present numbers. All float32, in the module's orientation.
    `replaced(site, slots, factors)`: of a kind that changes a tensor itself, the tensor with these slots on.
    `expects(part)`: the shape on disk of every tensor that a part may have, by role; a part with another is refused.
    `derived(part, sections)`: the sections that the forward uses in place of what is stored, through which gradients
    flow; the forward itself takes them from the image. There are some only of roles in DERIVING.
    `verbatim`: roles of a part which, where it has no others, are sections of the same names as they are in the file.
    `seals`: whether the rows path is tensor operations alone, so that compiled code takes the slots as data.
    """

    name: str
    holds: Callable[[nn.Module], bool]
    shapes: Callable[[nn.Module, Want], dict[str, Shape]]
    raw: Callable[[Part, Mapping[str, Tensor]], dict[str, Tensor]]
    stored: Callable[[Mapping[str, Tensor], Part], dict[str, Tensor]]
    forward: Callable[..., Any]
    merged: Callable[[Site, Mapping[str, Tensor], Mapping[str, Tensor], Part, float], dict[str, Tensor]]
    replaced: Callable[[Site, Sequence[int], Sequence[float]], Tensor | None] | None = None
    expects: Callable[[Part], Mapping[str, Shape]] = _no_roles
    derived: Callable[[Part, Mapping[str, Tensor]], dict[str, Tensor]] = _nothing
    verbatim: frozenset[str] = frozenset()
    seals: bool = True
