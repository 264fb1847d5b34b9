"""What the registry needs of a model that runs: `engine.model.Runtime` has it. Only a path and a name cross."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class LiveModel(Protocol):
    """A model that takes adapters while it runs."""

    def load(self, name: str, path: Path, *, pinned: bool = False, replace: bool = False) -> None:
        """Take in the adapter in the folder `path` under `name`; `replace`: in place of the one there, at once."""
