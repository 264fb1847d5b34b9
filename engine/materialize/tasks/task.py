"""One tensor of the result as data: what a worker, here or elsewhere, needs to make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.materialize.changes.change import Change
    from engine.materialize.stored.place import Stored


@dataclass(frozen=True, slots=True)
class Task:
    """Write `target` from `source` with all `changes` added; independent of every other task.

    Without changes, and with one encoding and dtype, the bytes are copied. `seed` is of stochastic rounding, None
    rounds to nearest; `module` is what the adapter calls the place. A `turned` target is the source's transpose, in
    another encoding.
    """

    name: str
    source: Stored
    target: Stored
    changes: tuple[Change, ...] = ()
    seed: int | None = None
    module: str = ""
    turned: bool = False

    @property
    def copies(self) -> bool:
        """Whether the bytes stay as they are."""
        same = self.source.encoding == self.target.encoding and self.source.parts.keys() == self.target.parts.keys()
        return (
            not self.changes
            and same
            and all(
                not part.size or part.dtype == self.target.parts[role].dtype for role, part in self.source.parts.items()
            )
        )
