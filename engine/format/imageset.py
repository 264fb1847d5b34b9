"""A file of hot-swap images: adapters laid out as the engine's slots are, each one run of bytes that a page begins.

It is a safetensors file: a flat tensor per image under the adapter's name, and in the metadata what lies where.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from engine.errors import UnreadableError, WrongBytesError
from engine.format.adapter import describe
from engine.format.configs.config import parse_config
from engine.format.files.header import BITS, read_header
from engine.format.files.tensors import Header, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from engine.format.facts import AdapterFacts

PAGE = 4096
"""Bytes of which every image begins at a multiple."""
VERSION = "1"
VERSION_KEY, DIGEST_KEY = "hotswap", "hotswap.digest"
CLASS_KEY, TENSORS_KEY, IMAGES_KEY = TEXT_KEYS = "hotswap.class", "hotswap.tensors", "hotswap.images"
DTYPES = ("BF16", "F16", "F32", "F64")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A section of an image: `offset` in numbers from its start."""

    offset: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class ModulePlaces:
    """What every image of a class has room for on one module: the engine's kind of it, the rank, the roles, how many
    rows of tokens, and its sections by name. With `leaf` it is one tensor of the module.
    """

    kind: str
    rank: int
    roles: frozenset[str]
    leaf: str
    tokens: int
    sections: Mapping[str, Place]


@dataclass(frozen=True, slots=True, eq=False)
class SwapClass:
    """What is equal in images that are swapped without compiling anew; `digest` names it.

    `numbers` of dtype `dtype` are in an image; `modules` by path; `target_rank` is the largest rank there is room for.
    The same text is the same object as long as it is remembered.
    """

    digest: str
    dtype: str
    target_rank: int
    numbers: int
    modules: Mapping[str, ModulePlaces]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One adapter of the file: its bytes, `sha256` of them, its configuration, and its tensors as its folder has them.

    `exact`: every number is in the image as it is in the folder.
    """

    name: str
    start: int
    size: int
    sha256: str
    exact: bool
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A file of images, in the order of its bytes; `digest` is that of what it says of them."""

    path: Path
    file_size: int
    digest: str
    swap_class: SwapClass
    images: Mapping[str, StoredImage]


def read_imageset(path: Path) -> ImageSet:
    """The images in the regular file `path`; reads nothing of them.

    Raises HeaderError, UnreadableError where the file holds no images, or this version cannot read them, and
    WrongBytesError where what it says of them is not what was written.
    """
    header = read_header(path)
    metadata = header.metadata
    if metadata.get(VERSION_KEY) != VERSION:
        found = metadata.get(VERSION_KEY)
        told = "holds no hot-swap images" if found is None else f"hot-swap images of version {found!r:.40}"
        raise UnreadableError(path, f"{told}; expected version {VERSION}")
    texts = [metadata.get(key, "") for key in TEXT_KEYS]
    if metadata.get(DIGEST_KEY) != (found := digest_of(*texts)):
        raise WrongBytesError([(f"{path}: map", metadata.get(DIGEST_KEY, "a digest"), found)])
    try:
        swap_class, tables, described = parse_class(texts[0]), _tables(texts[1]), json.loads(texts[2])
        images = {info.name: _image(header, info, tables, described[info.name]) for info in header.tensors.values()}
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise UnreadableError(path, f"its map cannot be read: {type(error).__name__} {error!s:.80}") from None
    wrong = [one.name for one in images.values() if one.size < swap_class.numbers * BITS[swap_class.dtype] // 8]
    if wrong or not images:
        raise UnreadableError(path, f"image {wrong[0]!r:.80} is shorter than its map" if wrong else "holds no image")
    return ImageSet(path, header.file_size, metadata[DIGEST_KEY], swap_class, images)


def still_there(images: ImageSet) -> bool:
    """Whether the file says the same as when it was read. Raises HeaderError where it is no such file any more."""
    header = read_header(images.path)
    return header.file_size == images.file_size and header.metadata.get(DIGEST_KEY) == images.digest


def adapter_facts(path: Path, image: StoredImage, *, alike: AdapterFacts | None = None) -> AdapterFacts:
    """The adapter of an image, as reading its folder gives it; `path` is the file.

    `alike` saves time where it says the same. Raises as `engine.format.adapter.describe`.
    """
    header = Header(image.tensors, 0, max((info.end for info in image.tensors.values()), default=0))
    config = parse_config(json.dumps(image.config).encode(), path)
    if alike is not None and header.tensors == alike.header.tensors and config.raw == alike.config.raw:
        return replace(alike, path=path, config=config, weights=path, header=header)
    return describe(config, header, config_path=path / image.name, weights_path=path)


def digest_of(*texts: str) -> str:
    """`sha256:` + 64 hex of the texts, one after the other."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return f"sha256:{digest.hexdigest()}"


@lru_cache(maxsize=8)
def parse_class(text: str) -> SwapClass:
    """The class that a map's text describes. Raises KeyError, TypeError, ValueError for anything else."""
    said = json.loads(text)
    bits = BITS[said["dtype"]]
    modules = {path: _module(one, bits // 8) for path, one in said["modules"].items()}
    return SwapClass(digest_of(text), str(said["dtype"]), int(said["target_rank"]), int(said["numbers"]), modules)


def class_text(swap_class: SwapClass) -> str:
    """The text of a class, which `parse_class` reads again; offsets are in bytes there."""
    size = BITS[swap_class.dtype] // 8
    modules = {
        path: {
            "kind": one.kind,
            "rank": one.rank,
            "roles": sorted(one.roles),
            **({"leaf": one.leaf} if one.leaf else {}),
            **({"tokens": one.tokens} if one.tokens else {}),
            "sections": {
                name: {"offset": place.offset * size, "shape": list(place.shape)}
                for name, place in one.sections.items()
            },
        }
        for path, one in swap_class.modules.items()
    }
    said = {
        "dtype": swap_class.dtype,
        "target_rank": swap_class.target_rank,
        "numbers": swap_class.numbers,
        "modules": modules,
    }
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


def _module(said: Mapping[str, Any], size: int) -> ModulePlaces:
    sections = {
        name: Place(int(one["offset"]) // size, tuple(map(int, one["shape"]))) for name, one in said["sections"].items()
    }
    roles = frozenset(map(str, said["roles"]))
    return ModulePlaces(
        str(said["kind"]), int(said["rank"]), roles, str(said.get("leaf", "")), int(said.get("tokens", 0)), sections
    )


@lru_cache(maxsize=8)
def _tables(text: str) -> list[dict[str, TensorInfo]]:
    """The tensors of folders: adapters that are trained alike share one table."""
    return [_table(said) for said in json.loads(text)]


def _table(said: Iterable[tuple[str, str, list[int]]]) -> dict[str, TensorInfo]:
    tensors, position = {}, 0
    for name, dtype, shape in said:
        end = position + prod(shape) * BITS[dtype] // 8
        tensors[name] = TensorInfo(name, dtype, tuple(shape), position, end)
        position = end
    return tensors


def _image(
    header: Header, info: TensorInfo, tables: Sequence[Mapping[str, TensorInfo]], said: Mapping[str, Any]
) -> StoredImage:
    start = header.data_offset + info.start
    if start % PAGE:
        raise ValueError(f"image {info.name!r} begins at byte {start}, which no page does")
    return StoredImage(
        info.name,
        start,
        info.size,
        str(said["sha256"]),
        bool(said["exact"]),
        dict(said["config"]),
        tables[said["tensors"]],
    )
