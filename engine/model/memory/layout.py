"""Where everything of one adapter lies in its image: one flat row of numbers, the same for every adapter of a model."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch
    from torch import Tensor

    from engine.model.kinds.kind import Shape

ALIGNMENT = 16
"""Numbers to which every section's start is rounded up: 64 bytes of float32, 32 of bfloat16."""


@dataclass(frozen=True, slots=True)
class Section:
    """A tensor's place in an image."""

    offset: int
    shape: Shape
    strides: Shape

    def of(self, image: Tensor) -> Tensor:
        """The section of one image (total,): a view of this shape."""
        return image.as_strided(self.shape, self.strides, image.storage_offset() + self.offset)

    def stacked(self, images: Tensor, start: int = 0) -> Tensor:
        """The section of many images (slots, n), whose first number is that at `start`: a view (slots, *shape)."""
        offset = self.offset - start
        return images[:, offset : offset + prod(self.shape)].view(-1, *self.shape)


@dataclass(frozen=True, slots=True)
class Want:
    """What the adapters of a model need of one module: the largest rank, every role that one of them has, the most
    rows of tokens.

    With `leaf` it is one tensor of the module that they need, and the want's path ends in that name.
    """

    kind: str
    rank: int
    roles: frozenset[str]
    leaf: str = ""
    tokens: int = 0

    def joined(self, other: Want) -> Want:
        """The want that holds both. The kinds are equal: a module has one."""
        rank, tokens = max(self.rank, other.rank), max(self.tokens, other.tokens)
        return Want(self.kind, rank, self.roles | other.roles, self.leaf, tokens)


@dataclass(frozen=True, slots=True)
class Span:
    """The run of an image, `start` to `stop`, that belongs to the modules `paths` on one device."""

    device: torch.device
    start: int
    stop: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The images of a model: `sections` by module path and name, `wants` they were made for, `total` numbers. One made
    again is another.

    `spans` divide an image among the devices of the modules, one after the other; `columns` number the modules in the
    same order, for what an image has once per module.
    """

    wants: Mapping[str, Want]
    sections: Mapping[str, Mapping[str, Section]]
    columns: Mapping[str, int]
    total: int
    spans: tuple[Span, ...]


def make_layout(
    wants: Mapping[str, Want], shapes: Mapping[str, Mapping[str, Shape]], devices: Mapping[str, torch.device]
) -> Layout:
    """Lay out the sections of every module after one another: device by device, in the order of the paths."""
    by_device: dict[torch.device, list[str]] = {}
    for path in sorted(wants):
        by_device.setdefault(devices[path], []).append(path)
    sections: dict[str, dict[str, Section]] = {}
    spans: list[Span] = []
    offset = 0
    for device, paths in by_device.items():
        start = offset
        for path in paths:
            sections[path] = {}
            for name, shape in shapes[path].items():
                sections[path][name] = Section(offset, shape, strides(shape))
                offset += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
        spans.append(Span(device, start, offset, tuple(paths)))
    columns = {path: column for column, path in enumerate(sections)}
    return Layout(dict(wants), sections, columns, offset, tuple(spans))


def strides(shape: Shape) -> Shape:
    """Of a tensor of this shape whose numbers lie one behind the other."""
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


def joined_wants(all_wants: Iterable[Mapping[str, Want]]) -> dict[str, Want]:
    """One want per module that holds those of every adapter."""
    found: dict[str, Want] = {}
    for wants in all_wants:
        for path, want in wants.items():
            found[path] = found[path].joined(want) if path in found else want
    return found
