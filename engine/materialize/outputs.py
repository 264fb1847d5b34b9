"""Every tensor of the result: its name, where it comes from, what changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.changes.change import Change
    from engine.materialize.stored.place import Stored


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of the result: the bytes of `source`, or its numbers with all `changes` added; `module` is what an
    adapter calls the place, `dtype` what the numbers are stored in (safetensors' name; empty for the source's).
    """

    name: str
    source: Stored
    changes: tuple[Change, ...] = ()
    module: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Headed:
    """That the result is of another class than the base, or tells apart another number of labels: the names of both
    (the base's None where it tells none), the tensors of the result that adapters brought and the base has not so, in
    safetensors' `dtype`, and those of the base that the class has no place for.
    """

    architecture: str
    before: str | None
    brought: tuple[str, ...]
    left_out: tuple[str, ...]
    dtype: str

    def as_json(self) -> dict[str, Any]:
        """For reports and manifests."""
        told = {"architecture": self.architecture, "of_base": self.before}
        return {**told, "brought": list(self.brought), "left_out": list(self.left_out)}


@dataclass(frozen=True, slots=True)
class Outputs:
    """All tensors, in the order in which they are stored, and the keys of config.json that follow from the adapters
    (None takes a key away); what became of the base's head where it is another's.
    """

    tensors: tuple[Output, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    headed: Headed | None = None
