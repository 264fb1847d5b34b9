"""Where in a module an override of its forward sits, and how several stand one inside the other.

The seat is `forward` on the object; where accelerate moves the module's weights or inputs it is `_old_forward`, which
accelerate calls between its hooks: there weights and inputs are on the device where the module runs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


class Override(Protocol):
    """Stands in for a module's forward; `original` is what it stands before."""

    original: Callable[..., Any]


def seat_of(module: nn.Module) -> str:
    """The attribute that an override takes."""
    return "_old_forward" if hasattr(module, "_hf_hook") and hasattr(module, "_old_forward") else "forward"


def outermost(module: nn.Module) -> Callable[..., Any]:
    """What stands in the seat now."""
    found: Callable[..., Any] = getattr(module, seat_of(module))
    return found


def sit_outermost(module: nn.Module, override: Override, forward: Callable[..., Any]) -> None:
    """Let the module's calls come to `forward(override, …)` first."""
    override.original = outermost(module)
    setattr(module, seat_of(module), partial(forward, override))


def sit_innermost(module: nn.Module, override: Override, forward: Callable[..., Any]) -> None:
    """Let calls come to `forward(override, …)` last, right before the module's own forward."""
    layers = list(overrides(module))
    if not layers:
        sit_outermost(module, override, forward)
        return
    override.original = layers[-1].original
    layers[-1].original = partial(forward, override)


def overrides(module: nn.Module) -> Iterator[Override]:
    """The overrides of the module, the outermost first."""
    current = outermost(module)
    while isinstance(current, partial) and current.args and hasattr(current.args[0], "original"):
        layer: Override = current.args[0]
        yield layer
        current = layer.original


def stand_up(module: nn.Module, override: Override) -> None:
    """Take the override out, whatever stands around it; the last one leaves the module as it was."""
    layers = list(overrides(module))
    place = next(index for index, layer in enumerate(layers) if layer is override)
    if place:
        layers[place - 1].original = override.original
    elif getattr(override.original, "__func__", None) is type(module).forward and seat_of(module) == "forward":
        del module.forward
    else:
        setattr(module, seat_of(module), override.original)


def own_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The class's forward, to be called with a stand-in; None where other code put its own on the object."""
    current = outermost(module)
    for layer in overrides(module):
        current = layer.original
    if getattr(current, "__self__", None) is not module:
        return None
    found: Callable[..., Any] | None = getattr(current, "__func__", None)
    return found
