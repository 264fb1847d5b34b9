"""One parent of a merge: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """A parent: the adapter folder at `path`, taken `weight` times."""

    path: Path
    weight: float
