"""Images on the host, within a bound of bytes: the one unused for longest is dropped first, those pinned never."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.model.memory.image import Image


class HostCache:
    """Images by key. `limit` bounds the bytes of those that may be dropped and those that may not, together; None: no
    bound. What may not be dropped is kept even over the bound.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.size = 0
        self._images: OrderedDict[int, Image] = OrderedDict()

    def get(self, key: int) -> Image | None:
        """The image, which counts as a use; None where it was dropped."""
        image = self._images.get(key)
        if image is not None:
            self._images.move_to_end(key)
        return image

    def put(self, key: int, image: Image, *, keep: Collection[int] = ()) -> None:
        """Take the image in, in place of the key's former one; drop others down to the bound, but none in `keep`."""
        self.remove(key)
        self._images[key] = image
        self.size += image.nbytes
        self.shrink(keep)

    def shrink(self, keep: Collection[int]) -> None:
        """Drop images down to the bound, the one unused for longest first."""
        if self.limit is None or self.size <= self.limit:
            return
        for key in [key for key in self._images if key not in keep]:
            if self.size <= self.limit:
                return
            self.remove(key)

    def remove(self, key: int) -> None:
        """Forget the image, if it is there."""
        image = self._images.pop(key, None)
        if image is not None:
            self.size -= image.nbytes

    def __contains__(self, key: int) -> bool:
        return key in self._images
