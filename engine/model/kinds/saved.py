"""A tensor of which the adapter has a full copy of its own (modules_to_save, resized or trained embeddings)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.kinds.kind import Kind
from engine.model.memory.tensordata import widened
from engine.model.sites.replaced import TensorSite, forward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    return {"copy": tuple(getattr(module, want.leaf).shape)}


def raw(_part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    return dict(tensors)


def stored(views: Mapping[str, Tensor], _part: Part) -> dict[str, Tensor]:
    return {"copy": views["copy"].clone()}


def replaced(site: Site, slots: Sequence[int], factors: Sequence[float]) -> Tensor | None:
    """The last of the slots' copies; None where none has one, or where its adapter's scale is 0."""
    found = None
    for slot, factor in zip(slots, factors, strict=True):
        if site.numbers[slot] * factor:
            found = site.sections(slot)["copy"]
    if found is None or not isinstance(site, TensorSite):
        return None
    return found.to(site.tensor.dtype)


def merged(
    _site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    return {part.leaf: widened(views["copy"]).clone() if factor else values[part.leaf]}  # whole, as in a forward


def refuse_clashes(parts: Mapping[str, Sequence[Part]]) -> None:
    """Raises RefusedError where several adapters, by name, that are to be on together copy the same tensor in full."""
    owners: dict[str, list[str]] = {}
    for name, own in parts.items():
        for part in own:
            if part.kind == SAVED.name:
                owners.setdefault(part.path, []).append(name)
    clashes = [
        Finding(
            "own-clash",
            "error",
            f"{path}: {' and '.join(names)} both have a copy of it; only one can be on",
            where=path,
        )
        for path, names in owners.items()
        if len(names) > 1
    ]
    if clashes:
        raise RefusedError(clashes)


def holds(_module: nn.Module) -> bool:
    """No module is of this kind by itself: the adapter brings the copy."""
    return False


def expects(part: Part) -> dict[str, Shape]:
    tensor = getattr(part.module, part.leaf, None)
    return {} if tensor is None else {"copy": tuple(tensor.shape)}


SAVED = Kind(
    "saved", holds, shapes, raw, stored, forward, merged, replaced, expects, verbatim=frozenset({"copy"}), seals=False
)
