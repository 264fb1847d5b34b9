"""An adapter in a file of images: its bytes lie as those of a slot, so that nothing is laid out anew for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from engine.compat.finding import Finding
from engine.errors import HeaderError, RefusedError
from engine.format.imageset import adapter_facts, still_there
from engine.model.fitting.fit import fit
from engine.model.fitting.fitted import Wants
from engine.model.kinds import KINDS
from engine.model.kinds.kind import DERIVING
from engine.model.kinds.sections import write
from engine.model.memory.image import Image, not_finite, relaid
from engine.model.memory.layout import Layout, Section, Want, strides
from engine.model.memory.mapped import Mapped
from engine.model.memory.tensordata import DTYPES
from engine.model.sites.siting import holder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from engine.format.facts import AdapterFacts
    from engine.format.imageset import ImageSet, ModulePlaces, StoredImage, SwapClass
    from engine.model.fitting.part import Part

_FIX = "adapters materialize … --as hotswap --base BASE"


@dataclass(frozen=True, slots=True)
class FileImage:
    """The image `stored` of a file; `verified`: somebody looked at its bytes already."""

    images: ImageSet
    stored: StoredImage
    verified: bool = False

    @property
    def swap_class(self) -> str:
        """The name of its class."""
        return self.images.swap_class.digest

    def again(self) -> FileImage:
        """The same image, its bytes to be looked at."""
        return replace(self, verified=False)

    def facts(self, alike: AdapterFacts | None) -> AdapterFacts:
        """Raises HeaderError where the file is another by now."""
        if not still_there(self.images):
            raise HeaderError(self.images.path, "changed", "the file was changed after its images were read")
        return adapter_facts(self.images.path, self.stored, alike=alike)

    def fit(
        self, facts: AdapterFacts, modules: Mapping[str, nn.Module], target_rank: int | None
    ) -> tuple[tuple[Part, ...], Wants]:
        """Its parts, and room for every adapter of its class. Raises RefusedError with all that does not fit."""
        wants = dict(_wants(self.images.swap_class, target_rank))
        findings = [*_misfits(self.images.swap_class, modules)]
        try:
            parts = fit(facts, modules)
            findings += _unplaced(parts, self.images.swap_class)
        except RefusedError as error:
            told = {one.where for one in error.findings}
            raise RefusedError([*error.findings, *(one for one in findings if one.where not in told)]) from None
        if findings:
            raise RefusedError(findings)
        return parts, Wants({part.path: part.want(None) for part in parts}, wants, whole=True)

    def image(
        self, facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype, *, pinned: bool
    ) -> tuple[Image, int]:
        """The file's pages themselves where they lie as the layout asks, else their numbers laid out anew.

        Raises WrongBytesError, RefusedError for a derived number that is not finite, OutOfRoomError, and as `Mapped`.
        """
        del facts
        kind = self.images.swap_class
        mapped = Mapped(self.images, self.stored)
        if not self.verified:
            mapped.verify()
        held = Image(layout_of(kind), mapped.values(kind.dtype, kind.numbers), mapped)
        if pinned or DTYPES[kind.dtype] != dtype or not _same_places(held.layout, layout):
            image = relaid(held, layout, pinned=pinned, dtype=dtype)
            mapped.check()
        else:
            image = Image(layout, held.values, mapped)
        _derive(held, image, parts)
        return image, int(self.stored.sha256[-15:], 16)


@lru_cache(maxsize=8)
def layout_of(kind: SwapClass) -> Layout:
    """Where everything lies in the images of the class; it is on no device."""
    sections = {
        path: {name: Section(place.offset, place.shape, strides(place.shape)) for name, place in one.sections.items()}
        for path, one in kind.modules.items()
    }
    columns = {path: column for column, path in enumerate(sections)}
    return Layout(dict(_wants(kind, None)), sections, columns, kind.numbers, ())


@lru_cache(maxsize=8)
def _same_places(one: Layout, other: Layout) -> bool:
    return one.total == other.total and one.sections == other.sections


def _wants(kind: SwapClass, target_rank: int | None) -> Iterator[tuple[str, Want]]:
    """The room for all adapters of the class: at its ranks, or at the runtime's own for all."""
    for path, one in kind.modules.items():
        rank = (target_rank or one.rank) if one.rank else 0
        yield path, Want(one.kind, rank, one.roles, one.leaf, one.tokens)


def _misfits(kind: SwapClass, modules: Mapping[str, nn.Module]) -> Iterator[Finding]:
    """What of the class the model has not, or has in another shape."""
    for (path, one), (_, want) in zip(kind.modules.items(), _wants(kind, None), strict=True):
        module = modules.get(holder(path, one.leaf))
        if module is None or (one.leaf and not isinstance(getattr(module, one.leaf, None), torch.Tensor)):
            yield Finding("base-module-absent", "error", f"{path}: the model has no such module", where=path)
        elif one.kind not in KINDS or not (one.leaf or KINDS[one.kind].holds(module)):
            message = f"{path}: the images are for a module of kind {one.kind}, found a {type(module).__name__}"
            yield Finding("own-kind", "error", message, where=path, fix=_FIX)
        elif found := _other_shapes(one, KINDS[one.kind].shapes(module, want)):
            yield Finding("base-shape", "error", f"{path}: {found}", where=path)


def _other_shapes(one: ModulePlaces, found: Mapping[str, tuple[int, ...]]) -> str:
    expected = {name: place.shape for name, place in one.sections.items()}
    wrong = next((name for name in {**expected, **found} if expected.get(name) != found.get(name)), None)
    if wrong is None:
        return ""
    return f"the images have {wrong} {list(expected.get(wrong, ()))}, the model takes {list(found.get(wrong, ()))}"


def _unplaced(parts: Sequence[Part], kind: SwapClass) -> Iterator[Finding]:
    """What the adapter changes on this model and the image has no place for: it was made without the base."""
    places = dict(_wants(kind, None))
    for part in parts:
        held = places.get(part.path)
        if held is None or held.kind != part.kind or part.want(None).joined(held) != held:
            message = f"{part.path}: the image has no place for {', '.join(part.tensors.values())} there"
            yield Finding("image-base", "error", message, where=part.path, fix=_FIX)


@torch.no_grad()
def _derive(held: Image, image: Image, parts: Sequence[Part]) -> None:
    """Fill in what follows from the adapter and the base's weights together, as loading the folder does."""
    made = []
    for part in parts:
        if DERIVING & part.tensors.keys():
            kind = KINDS[part.kind]
            sections = kind.raw(part, kind.stored(held.views(part.path), part))
            write(image.views(part.path), kind.derived(part, sections))
            made.append(part)
    if findings := not_finite(image, made):
        raise RefusedError(findings)
