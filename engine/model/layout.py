"""Where everything of one adapter lies in its image: one flat row of numbers, the same for every adapter of a model."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from engine.model.kinds.kind import Shape

ALIGNMENT = 16
"""Numbers to which every section's start is rounded up: 64 bytes of float32, 32 of bfloat16."""


@dataclass(frozen=True, slots=True)
class Section:
    """A tensor's place in an image."""

    offset: int
    shape: Shape

    def of(self, image: Tensor) -> Tensor:
        """The section of one image (total,): a view of this shape."""
        return image[self.offset : self.offset + prod(self.shape)].view(self.shape)

    def stacked(self, images: Tensor) -> Tensor:
        """The section of all images (slots, total): a view (slots, *shape)."""
        return images[:, self.offset : self.offset + prod(self.shape)].view(-1, *self.shape)


@dataclass(frozen=True, slots=True)
class Want:
    """What the adapters of a model need of one module: the largest rank and every role that one of them has."""

    kind: str
    rank: int
    roles: frozenset[str]

    def joined(self, other: Want) -> Want:
        """The want that holds both. The kinds are equal: a module has one."""
        return Want(self.kind, max(self.rank, other.rank), self.roles | other.roles)


@dataclass(frozen=True, slots=True)
class Layout:
    """The images of a model: `sections` by module path and name, `wants` they were made for, `total` numbers."""

    wants: Mapping[str, Want]
    sections: Mapping[str, Mapping[str, Section]]
    columns: Mapping[str, int]
    total: int


def make_layout(wants: Mapping[str, Want], shapes: Mapping[str, Mapping[str, Shape]]) -> Layout:
    """Lay out the sections of every module after one another, in the order of the paths."""
    sections: dict[str, dict[str, Section]] = {}
    offset = 0
    for path in sorted(wants):
        sections[path] = {}
        for name, shape in shapes[path].items():
            sections[path][name] = Section(offset, shape)
            offset += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
    columns = {path: column for column, path in enumerate(sorted(wants))}
    return Layout(dict(wants), sections, columns, offset)


def joined_wants(all_wants: Iterable[Mapping[str, Want]]) -> dict[str, Want]:
    """One want per module that holds those of every adapter."""
    found: dict[str, Want] = {}
    for wants in all_wants:
        for path, want in wants.items():
            found[path] = found[path].joined(want) if path in found else want
    return found
