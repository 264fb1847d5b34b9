"""What a runtime sets aside, and running out of memory as one typed error, whoever ran out of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import OptionError, OutOfRoomError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_SAID = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says in a plain RuntimeError where its allocator of host or pinned memory fails."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a runtime sets aside: slots on the devices, the rank each has room for (None: as adapters need), the dtype,
    and the bytes of images on the host (None: no bound).
    """

    slots: int
    target_rank: int | None
    dtype: torch.dtype
    host_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for what no runtime can have."""
        for name, least in (("slots", 1), ("target_rank", 1), ("host_bytes", 0)):
            found = getattr(self, name)
            if found is not None and (not isinstance(found, int) or found < least):
                raise OptionError(f"{name}: expected a whole number of at least {least}, found {found!r:.80}")
        if not self.dtype.is_floating_point:
            raise OptionError(f"dtype: expected a floating dtype, found {self.dtype}")


def widest_of(model: nn.Module) -> torch.dtype:
    """What holds every number of the model's results."""
    doubles = any(parameter.dtype is torch.float64 for parameter in model.parameters())
    return torch.float64 if doubles else torch.float32


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
