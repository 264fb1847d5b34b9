"""sha256 of a tensor's bytes in a file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from engine.errors import HeaderError
from engine.materialize.stored.files import reading

if TYPE_CHECKING:
    from engine.materialize.stored.place import Place

_STEP = 1 << 20


def place_digest(place: Place) -> str:
    """Hex. Raises HeaderError where the file is missing or ends before the tensor does."""
    digest, view = hashlib.sha256(), memoryview(bytearray(min(place.size, _STEP)))
    with reading(place.file) as descriptor:
        for start in range(0, place.size, _STEP):
            block = view[: place.size - start]
            if os.preadv(descriptor, [block], place.offset + start) != len(block):
                raise HeaderError(place.file, "truncated", "the file ends within a tensor")
            digest.update(block)
    return digest.hexdigest()
