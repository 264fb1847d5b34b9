"""A module once more, with the very same parameters and buffers: for layers that run several times."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

from torch import nn


def shallow_clone(module: nn.Module) -> nn.Module:
    """Another object of the same class whose tensors, settings and hooks are the module's own.

    Methods that the object holds bound to itself, as accelerate leaves them, are bound to the clone.
    """
    other = nn.Module.__new__(type(module))
    for key, value in vars(module).items():
        vars(other)[key] = _bound_anew(value, module, other)
    children = vars(module)["_modules"]
    vars(other)["_modules"] = {name: child and shallow_clone(child) for name, child in children.items()}
    return other


def _bound_anew(value: Any, module: nn.Module, other: nn.Module) -> Any:
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, other)
    if isinstance(value, partial) and value.args and value.args[0] is module:
        return partial(value.func, other, *value.args[1:], **value.keywords)
    return value.copy() if isinstance(value, dict) else value
