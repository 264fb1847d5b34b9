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
class Outputs:
    """All tensors, in the order in which they are stored, and the keys of config.json that follow from the adapters
    (None takes a key away).
    """

    tensors: tuple[Output, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
