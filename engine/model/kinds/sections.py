"""Sections of an image that are larger than what an adapter puts there: the rest stays zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.kinds.kind import Shape


def write(views: Mapping[str, Tensor], sections: Mapping[str, Tensor]) -> None:
    """Copy each section into the beginning of its view, in every dimension."""
    for name, value in sections.items():
        views[name][tuple(map(slice, value.shape))].copy_(value)


def cut(view: Tensor, shape: Shape) -> Tensor:
    """The beginning of a view in every dimension, as a tensor of its own of this shape; a vector is only reshaped."""
    return view[tuple(map(slice, shape))].clone() if view.dim() == len(shape) else view.reshape(shape).clone()
