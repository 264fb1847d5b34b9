"""Decoder layers that run several times with the same weights, as an adapter's layer_replication asks: each time with
the adapter's own factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.sites.clones import shallow_clone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.format.facts import AdapterFacts

Ranges = tuple[tuple[int, int], ...]

_BODIES = ("model", "bert", "transformer")
_COUNT = "num_hidden_layers"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a config, as it was and as it is with the layers repeated."""

    config: Any
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Replication:
    """A model's layers, repeated in half-open `ranges`: `modules` are all modules by path as they are then.

    Every layer is a copy that shares the parameters; the base's own layers stay as they are, out of the model.
    """

    ranges: Ranges
    owner: nn.Module
    attribute: str
    before: nn.ModuleList
    after: nn.ModuleList
    modules: Mapping[str, nn.Module]
    settings: tuple[Setting, ...]

    def install(self) -> None:
        """Put the repeated layers into the model."""
        setattr(self.owner, self.attribute, self.after)
        for setting in self.settings:
            setattr(setting.config, setting.name, setting.after)

    def remove(self) -> None:
        """Put the base's own layers and settings back."""
        setattr(self.owner, self.attribute, self.before)
        for setting in self.settings:
            setattr(setting.config, setting.name, setting.before)


def plan_replication(model: nn.Module, ranges: Ranges) -> Replication:
    """The model with its layers repeated, of which nothing is done yet.

    Raises RefusedError for ranges that the model does not have, all at once, and for a model without such layers.
    """
    place = _layers(model)
    if place is None:
        message = "layer_replication: expected a model with a list of layers as Llama, BERT or GPT-2 have it"
        raise RefusedError([Finding("replication-range", "error", message, where=type(model).__name__)])
    path, owner, attribute, before = place
    wrong = [(start, end) for start, end in ranges if not 0 <= start < end <= len(before)]
    if wrong:
        raise RefusedError([_beyond(one, len(before)) for one in wrong])
    sources = [index for start, end in ranges for index in range(start, end)]
    after = nn.ModuleList(_numbered(shallow_clone(before[source]), index) for index, source in enumerate(sources))
    modules = dict(_with(model, path, after))
    return Replication(
        ranges, owner, attribute, before, after, modules, tuple(_settings(model, owner, sources, len(before)))
    )


def replication_for(
    facts: AdapterFacts, model: nn.Module, present: Replication | None, *, fixed: bool
) -> Replication | None:
    """The repeated layers that an adapter asks for: the model's present ones, or those to come with it.

    Raises RefusedError where they are others than the present ones and `fixed`, and as `plan_replication`.
    """
    ranges = (facts.config.lora and facts.config.lora.layer_replication) or None
    if ranges == ranges_of(present):
        return present
    if fixed:
        raise differing(ranges, ranges_of(present))
    return plan_replication(model, ranges) if ranges else None


def ranges_of(replication: Replication | None) -> Ranges | None:
    """Which layers are repeated; None where none are."""
    return replication.ranges if replication else None


def differing(ranges: Ranges | None, present: Ranges | None) -> RefusedError:
    """The refusal of an adapter that repeats other layers than those loaded do: a model has one list of layers."""
    told = f"expected {_told(present)} as the adapters loaded have it, found {_told(ranges)}"
    message = f"layer_replication: {told}; unload them first"
    return RefusedError([Finding("layer-replication", "error", message, where="layer_replication")])


def _told(ranges: Ranges | None) -> str:
    return "none" if not ranges else str([list(one) for one in ranges])


def _beyond(one: tuple[int, int], count: int) -> Finding:
    message = f"layer_replication: expected 0 <= start < end <= {count}, found {list(one)}"
    return Finding("replication-range", "error", message, where="layer_replication")


def _layers(model: nn.Module) -> tuple[str, nn.Module, str, nn.ModuleList] | None:
    """The path of the list of layers, the module that holds it, its name there, and the list."""
    path: list[str] = []
    while True:
        step = next((name for name in _BODIES if isinstance(getattr(model, name, None), nn.Module)), None)
        if step is None:
            break
        model = getattr(model, step)
        path.append(step)
    for names in (("layers",), ("encoder", "layer"), ("h",)):
        owner: Any = model
        for name in names[:-1]:
            owner = getattr(owner, name, None)
        found = getattr(owner, names[-1], None)
        if isinstance(found, nn.ModuleList):
            return ".".join([*path, *names]), owner, names[-1], found
    return None


def _numbered(layer: nn.Module, index: int) -> nn.Module:
    """Each copy has its own place in a cache of keys and values."""
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = index  # type: ignore[assignment]  # a plain number, as transformers keeps it
    return layer


def _with(model: nn.Module, path: str, layers: nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the model by path, these layers in place of its own."""
    for name, module in model.named_modules():
        if name == path:
            yield from layers.named_modules(prefix=path)
        elif not name.startswith(f"{path}."):
            yield name, module


def _settings(model: nn.Module, owner: nn.Module, sources: Sequence[int], count: int) -> Iterator[Setting]:
    """The number of layers, and what a config says of each layer, such as layer_types."""
    for config in _configs(model, owner):
        if getattr(config, _COUNT, None) == count:
            yield Setting(config, _COUNT, count, len(sources))
            for name, value in vars(config).items():
                if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
                    yield Setting(config, name, value, type(value)(value[source] for source in sources))


def _configs(model: nn.Module, owner: nn.Module) -> list[Any]:
    """The configs that say how many layers there are, each once: the outer model's and that of the layers' owner."""
    found: dict[int, Any] = {}
    for module in (model, owner):
        config: Any = getattr(module, "config", None)
        inner = config.get_text_config() if hasattr(config, "get_text_config") else None
        for one in (config, inner):
            if one is not None:
                found[id(one)] = one
    return list(found.values())
