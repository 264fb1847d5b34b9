"""Where an adapter is read from: its folder, or its image in a file of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.errors import OptionError
from engine.format.adapter import read_adapter
from engine.format.imageset import read_imageset
from engine.model.fitting.fit import fit
from engine.model.fitting.fitted import Wants
from engine.model.memory.fileimage import FileImage
from engine.model.memory.image import build_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.part import Part
    from engine.model.memory.image import Image
    from engine.model.memory.layout import Layout


class Given(Protocol):
    """An adapter to read."""

    @property
    def swap_class(self) -> str | None:
        """The name of its image's class; None for a folder."""

    def facts(self, alike: AdapterFacts | None) -> AdapterFacts:
        """What it says; `alike` saves time where it says the same."""

    def again(self) -> Given:
        """The same, to be read later: nobody has looked at its bytes then."""

    def fit(
        self, facts: AdapterFacts, modules: Mapping[str, nn.Module], target_rank: int | None
    ) -> tuple[tuple[Part, ...], Wants]:
        """Its parts on the modules, and the room that it wants. Raises RefusedError with everything that is wrong."""

    def image(
        self, facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype, *, pinned: bool
    ) -> tuple[Image, int]:
        """Its numbers in a layout that holds them, and a mark of what they are. Raises as `build_image`."""


def given_at(path: Path, *, image: str | None = None, called: str | None = None, verified: bool = False) -> Given:
    """The adapter in the folder `path`, or in the file of images there: the image of that name, else the only one, else
    the one named as the adapter is `called`. `verified`: the file's bytes were looked at already.

    Raises OptionError where the file has no such image, and as `read_imageset`.
    """
    if not path.is_file():
        if image is not None:
            raise OptionError(f"image {image!r:.80}: {path} is a folder, which holds one adapter")
        return Folder(path)
    images = read_imageset(path)
    names = list(images.images)
    wanted = image or (names[0] if len(names) == 1 else called)
    if wanted is None or wanted not in images.images:
        raise OptionError(
            f"{path} holds the images {', '.join(names)}; found {wanted!r:.80}: name one of them, image=…"
        )
    return FileImage(images, images.images[wanted], verified=verified)


@dataclass(frozen=True, slots=True)
class Folder:
    """An adapter in a folder as PEFT writes it."""

    path: Path

    @property
    def swap_class(self) -> None:
        """None: its numbers lie as the layout of the model asks."""

    def again(self) -> Folder:
        """Itself."""
        return self

    def facts(self, alike: AdapterFacts | None) -> AdapterFacts:
        """Raises as `read_adapter`."""
        return read_adapter(self.path, alike=alike)

    def fit(
        self, facts: AdapterFacts, modules: Mapping[str, nn.Module], target_rank: int | None
    ) -> tuple[tuple[Part, ...], Wants]:
        """Raises as `fit`."""
        parts = fit(facts, modules)
        return parts, Wants.of(parts, target_rank)

    def image(
        self, facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype, *, pinned: bool
    ) -> tuple[Image, int]:
        """Raises as `build_image`."""
        return build_image(facts, parts, layout, dtype, pinned=pinned)
