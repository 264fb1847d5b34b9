"""A module's stand-in that computes with other tensors, without a change to the module itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def twin(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module with these parameters and buffers, by dotted name, in place of its own; all else is shared.

    No number is copied and the module is not touched, so that other threads may run it meanwhile. To be called through
    its class's forward: hooks and overrides of the module's own forward are not for the twin.
    """
    other = nn.Module.__new__(type(module))
    state = {key: value for key, value in vars(module).items() if key != "forward"}
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    for place in ("_parameters", "_buffers"):
        held = state[place]
        state[place] = {**held, **{name: tensor for name, tensor in own.items() if name in held}}
    children = dict(state["_modules"])
    for head in {name.partition(".")[0] for name in tensors if "." in name}:
        inner = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{head}.")}
        children[head] = twin(children[head], inner)
    state["_modules"] = children
    vars(other).update(state)
    return other
