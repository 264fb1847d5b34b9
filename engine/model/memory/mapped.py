"""A file's image in memory without a copy: its pages, as the kernel has them."""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from typing import TYPE_CHECKING

import torch

from engine.errors import HeaderError, SourceGoneError, UnreadableError, WrongBytesError
from engine.format.files.header import open_regular
from engine.model.memory.tensordata import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

    from engine.format.imageset import ImageSet, StoredImage


class Mapped:
    """The bytes of an image, mapped for this process alone: what is written to them never reaches the file.

    A class because it holds the descriptor, by which it sees whether the file was changed since: its pages would be
    other bytes then, or, behind the end of a file that became shorter, end the process (SIGBUS). Between a `check` and
    the copy that follows nothing can help: the maker of such a file writes a new one beside it and renames.
    """

    def __init__(self, images: ImageSet, image: StoredImage) -> None:
        """Raises HeaderError where the file is no longer the one that was described, UnreadableError."""
        self._path = images.path
        self._image = image
        self._descriptor = open_regular(images.path)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = _state(self._descriptor)
        if self._state[0] != images.file_size:
            raise HeaderError(self._path, "changed", "the file's size changed after its header was read")
        before = image.start % mmap.ALLOCATIONGRANULARITY
        try:
            self._pages = mmap.mmap(
                self._descriptor,
                before + image.size,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=image.start - before,
            )
        except (OSError, ValueError) as error:
            raise UnreadableError(self._path, f"cannot be mapped: {error}") from error
        self._bytes = memoryview(self._pages)[before:]

    def values(self, dtype: str, count: int) -> Tensor:
        """The first `count` numbers (count,): a view of the pages."""
        return torch.frombuffer(self._bytes, dtype=DTYPES[dtype], count=count)

    def verify(self) -> None:
        """Raise WrongBytesError where the bytes are not those whose sha256 the file says."""
        found = f"sha256:{hashlib.sha256(self._bytes).hexdigest()}"
        if found != self._image.sha256:
            raise WrongBytesError([(f"{self._path}: image {self._image.name!r}", self._image.sha256, found)])
        self.check()

    def check(self) -> None:
        """Raise SourceGoneError where the file was changed since it was mapped."""
        if _state(self._descriptor) != self._state:
            raise SourceGoneError(self._path, "changed since it was loaded; load it under another name, or swap to it")


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
