"""Writes a set of adapters as one file of images, each the bytes of a slot of the engine."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import torch

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.files.header import BITS
from engine.format.imageset import (
    DIGEST_KEY,
    PAGE,
    TEXT_KEYS,
    VERSION,
    VERSION_KEY,
    class_text,
    digest_of,
    read_imageset,
)
from engine.materialize.folder.whole import whole_file
from engine.materialize.hotswap.plan import plan_images
from engine.materialize.stored.files import opened, write
from engine.model.kinds import KINDS
from engine.model.kinds.sections import write as write_sections
from engine.model.memory.image import Image, all_finite
from engine.model.memory.tensordata import DTYPES, TensorData
from engine.model.names import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.format.imageset import ImageSet
    from engine.materialize.hotswap.plan import ImagePlan, Member

_UNKNOWN = ("sha256:" + "0" * 64, 0)
"""What is told of an image before it is written; as long as what is told afterwards."""


def write_images(
    adapters: Mapping[str, Path],
    out: Path,
    *,
    base: Path | None = None,
    target_rank: int | None = None,
    dtype: str | None = None,
) -> ImageSet:
    """Write the adapters in these folders, by name, into the new file `out`, one image each.

    All are padded with zeros to `target_rank` (None: the largest rank) over the union of their modules, in `dtype`
    (None: the narrowest that holds every number). `base`: a folder with config.json, where only the base's modules
    tell what a tensor is on; with its weights, where embeddings lie beside factors.

    Raises RefusedError with everything that the engine would not load or that needs the base, OptionError,
    UnreadableError, BaseError, DestinationError, NoSpaceError.
    """
    for name in adapters:
        check_name(name)
    plan = plan_images(adapters, base=base, target_rank=target_rank, dtype=dtype)
    numbers = _padded_numbers(plan)
    size = numbers * BITS[plan.swap_class.dtype] // 8
    start = len(_header(plan, numbers, dict.fromkeys(plan.members, _UNKNOWN)))
    with (
        whole_file(out, start + size * len(plan.members)) as temporary,
        opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file,
    ):
        told = {}
        for place, (name, member) in enumerate(plan.members.items()):
            values, exact = _values(plan, member, numbers)
            data = values.view(torch.uint8).numpy().data
            write(file, data, start + place * size)
            told[name] = (f"sha256:{hashlib.sha256(data).hexdigest()}", exact)
        header = _header(plan, numbers, told)
        write(file, memoryview(header), 0)
    return read_imageset(out)


def _padded_numbers(plan: ImagePlan) -> int:
    """Numbers of an image, so that the next begins with a page."""
    page = PAGE * 8 // BITS[plan.swap_class.dtype]
    return -(-plan.swap_class.numbers // page) * page


def _values(plan: ImagePlan, member: Member, numbers: int) -> tuple[torch.Tensor, bool]:
    """The adapter's image (numbers,), and whether it holds every number as it is in the files.

    What is derived from the base's weights is left at zero: the engine fills it in on the model it loads it on.
    """
    image = Image(plan.layout, torch.zeros(numbers, dtype=DTYPES[plan.swap_class.dtype]))
    data = TensorData(member.facts.weights, member.header)
    exact = True
    for part in member.parts:
        tensors = {role: data.tensor(name) for role, name in part.tensors.items()}
        write_sections(image.views(part.path), KINDS[part.kind].raw(part, tensors))
        exact = exact and all(torch.equal(one, one.to(image.values.dtype).to(one.dtype)) for one in tensors.values())
    if not all_finite(image.values):
        message = f"{member.facts.path}: holds numbers that are not finite in {plan.swap_class.dtype}"
        raise RefusedError([Finding("value-nonfinite", "error", message, where=str(member.facts.path))])
    return image.values, exact


def _header(plan: ImagePlan, numbers: int, told: Mapping[str, tuple[str, int]]) -> bytes:
    """The bytes before the first image: as many as fill pages."""
    tables: list[Any] = []
    images = {name: _described(plan.members[name], *one, tables) for name, one in told.items()}
    texts = (class_text(plan.swap_class), _json(tables), _json(images))
    metadata = {
        "format": "pt",
        VERSION_KEY: VERSION,
        **dict(zip(TEXT_KEYS, texts, strict=True)),
        DIGEST_KEY: digest_of(*texts),
    }
    size = numbers * BITS[plan.swap_class.dtype] // 8
    entries: dict[str, Any] = {
        name: {
            "dtype": plan.swap_class.dtype,
            "shape": [numbers],
            "data_offsets": [place * size, (place + 1) * size],
        }
        for place, name in enumerate(told)
    }
    text = _json({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _described(member: Member, sha256: str, exact: int, tables: list[Any]) -> dict[str, Any]:
    """What the file says of an image; its table of tensors is one of `tables`."""
    table = [[info.name, info.dtype, list(info.shape)] for info in member.facts.header.tensors.values()]
    if table not in tables:
        tables.append(table)
    config = dict(member.facts.config.raw)
    return {"sha256": sha256, "exact": exact, "config": config, "tensors": tables.index(table)}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
