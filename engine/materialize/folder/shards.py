"""Which file holds which tensor, and where: fixed before the first byte is written."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from engine.format.files.header import BITS
from engine.format.files.writer import laid_out
from engine.materialize.stored.place import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Shape = tuple[int, ...]
Described = tuple[str, str, Shape]
"""Name, safetensors dtype, shape."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of the result: its header, its whole size, its tensors' places."""

    file: Path
    header: bytes
    size: int
    places: Mapping[str, Place]


def shards(folder: Path, stem: str, groups: Sequence[Sequence[Described]], limit: int) -> tuple[Shard, ...]:
    """The files of `folder` for tensors in their order; those of one group share a file. `stem` begins their names.

    Huggingface_hub's rule: a file takes groups as long as their bytes stay within `limit`; a larger group has a file of
    its own, before the one that is being filled.
    """
    files: list[list[Described]] = []
    filling: list[Described] = []
    room = limit
    for group in groups:
        size = sum(_size(dtype, shape) for _, dtype, shape in group)
        if size > limit:
            files.append(list(group))
            continue
        if size > room:
            files.append(filling)
            filling, room = [], limit
        filling += group
        room -= size
    if filling:
        files.append(filling)
    return tuple(_shard(folder / _file_name(stem, number, len(files)), held) for number, held in enumerate(files, 1))


def _file_name(stem: str, number: int, count: int) -> str:
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors"


def _shard(file: Path, held: Sequence[Described]) -> Shard:
    header, infos = laid_out({name: (dtype, shape) for name, dtype, shape in held})
    places = {name: Place(file, len(header) + info.start, info.dtype, info.shape) for name, info in infos.items()}
    return Shard(file, header, len(header) + sum(info.size for info in infos.values()), places)


def _size(dtype: str, shape: Shape) -> int:
    return prod(shape) * BITS[dtype] // 8
