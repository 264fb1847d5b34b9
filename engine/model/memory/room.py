"""Running out of memory as one typed error, whoever ran out of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from engine.errors import OutOfRoomError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAID = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says in a plain RuntimeError where its allocator of host or pinned memory fails."""


@contextmanager
def allocating(what: str, needed: int) -> Iterator[None]:
    """Raises OutOfRoomError that names `what` and the bytes it needed, where memory runs out within."""
    try:
        with torch.inference_mode(mode=False):  # what a loop of inference allocates is written to outside of it too
            yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfRoomError(what, needed) from error
    except RuntimeError as error:
        if not any(said in str(error).lower() for said in _SAID):
            raise
        raise OutOfRoomError(what, needed) from error
