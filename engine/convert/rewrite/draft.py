"""An adapter on its way to another form: its configuration, and every tensor as parts of tensors that exist."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.adapter import CONFIG_NAME, describe
from engine.format.configs.config import parse_config
from engine.format.files.header import BITS
from engine.format.files.tensors import Header, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.format.facts import AdapterFacts

Origin = Literal["adapter", "initial"]

NEEDS_INITIAL = "give the adapter saved right after its initialisation: --initial PATH"


@dataclass(frozen=True, slots=True)
class Part:
    """A whole tensor of one of the two files, `factor` times."""

    origin: Origin
    info: TensorInfo
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of the result: `parts` side by side along `axis` (0 rows, 1 columns), zeros behind them; all zeros
    without a part.

    Along the rows parts and zeros alternate `blocks` times, each time with the next of as many equal slices: so lie
    the ranks of a grouped convolution's groups, and those of a parameter's experts.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    axis: Literal[0, 1] = 0
    blocks: int = 1

    @property
    def untouched(self) -> bool:
        """Whether its bytes are those of its one part."""
        if len(self.parts) != 1:
            return False
        part = self.parts[0]
        return (part.info.shape, part.info.dtype) == (self.shape, self.dtype) and part.factor == 1


@dataclass(frozen=True, slots=True)
class Draft:
    """The adapter as it would be written. `source` is what it comes from; nothing is read or written for it."""

    source: AdapterFacts
    config: Mapping[str, Any]
    tensors: Mapping[str, Made]

    def facts(self) -> AdapterFacts:
        """What reading the written folder would give. Raises as `engine.format.adapter.describe`."""
        config = parse_config(config_bytes(self.config), self.source.config.path)
        place = self.source.path / CONFIG_NAME
        return describe(config, _header(self), config_path=place, weights_path=self.source.weights)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return _header(self).file_size

    def with_config(self, **changes: Any) -> Draft:
        """The same tensors under a configuration with these keys changed; None is not said where nothing was."""
        said = {key: value for key, value in changes.items() if value is not None or key in self.config}
        return replace(self, config={**self.config, **said})

    def with_tensors(self, changes: Mapping[str, Made]) -> Draft:
        """The same configuration over tensors of which these are changed."""
        return replace(self, tensors={**self.tensors, **changes})


def draft_of(facts: AdapterFacts) -> Draft:
    """The adapter as it is."""
    tensors = {name: as_is("adapter", info) for name, info in facts.header.tensors.items()}
    return Draft(facts, dict(facts.config.raw), tensors)


def as_is(origin: Origin, info: TensorInfo) -> Made:
    """A tensor that stays what it was."""
    return Made(info.dtype, info.shape, (Part(origin, info),))


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """The text of adapter_config.json, its keys sorted as PEFT sorts them, but not those of patterns: they decide."""
    ordered = {key: config[key] for key in sorted(config)}
    return (json.dumps(ordered, indent=2, ensure_ascii=False) + "\n").encode()


def number(value: float) -> int | float:
    """A number as JSON should say it: whole ones without a point, which some readers insist on."""
    return int(value) if float(value).is_integer() else value


def refused(rule: str, message: str, *, where: str | None = None, fix: str | None = None) -> RefusedError:
    """What a rewrite raises where the function could not be kept."""
    return RefusedError([Finding(f"rewrite-{rule}", "error", message, where=where, fix=fix)])


def _header(draft: Draft) -> Header:
    infos, position = {}, 0
    for name, made in draft.tensors.items():
        end = position + prod(made.shape) * BITS[made.dtype] // 8
        infos[name] = TensorInfo(name, made.dtype, made.shape, position, end)
        position = end
    return Header(infos, 0, position, {"format": "pt"})
