"""Some rows of a call's arguments, and results put back into their rows: for modules that run adapter by adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device)


def leading(args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str) -> Tensor:
    """The first tensor of a call, whose first dimension is the rows'."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.dim():
            return value
    raise BatchError(f"{path}: a batch of several adapters needs a tensor argument, found none")


def take(value: Any, rows: Tensor, first: int, path: str) -> Any:
    """The value with only these rows, in every tensor of it whose first dimension is `first`.

    Raises BatchError for what may keep a state of its own, such as a cache: it cannot be run through row by row.
    """
    if isinstance(value, torch.Tensor):
        return value.index_select(0, rows) if value.dim() and value.shape[0] == first else value
    if value is None or isinstance(value, _PLAIN):
        return value
    if type(value) in (tuple, list):
        return type(value)(take(item, rows, first, path) for item in value)
    if type(value) is dict:
        return {key: take(item, rows, first, path) for key, item in value.items()}
    raise BatchError(f"{path}: cannot run a batch of several adapters, its call takes a {type(value).__name__}")


def put(whole: Any, part: Any, rows: Tensor, first: int, path: str) -> Any:
    """The result `whole` of `first` rows with `part` in place of these rows; the other rows keep their bits."""
    if isinstance(whole, torch.Tensor):
        if not whole.dim() or whole.shape[0] != first:
            return whole
        return whole.index_copy(0, rows, part)
    if type(whole) in (tuple, list):
        return type(whole)(put(one, other, rows, first, path) for one, other in zip(whole, part, strict=True))
    if whole is None or isinstance(whole, _PLAIN):
        return whole
    if isinstance(whole, dict):
        changed = {key: put(item, part[key], rows, first, path) for key, item in whole.items()}
        return type(whole)(**changed)
    raise BatchError(f"{path}: cannot run a batch of several adapters, its result is a {type(whole).__name__}")
