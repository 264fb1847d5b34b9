"""The weights of the result before any adapter: the base's, repeated layers under the numbers that they then have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.base import config_facts
from engine.format.names.canonical import canonical_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.materialize.outputs import Headed
    from engine.materialize.stored.checkpoint import Checkpoint
    from engine.materialize.stored.place import Stored

Ranges = tuple[tuple[int, int], ...]

_LAYER = re.compile(r"(?P<body>(?:(?:model|bert|transformer)\.)*(?:layers|encoder\.layer|h)\.)(?P<number>\d{1,9})\.")
"""Where PEFT looks for layers to repeat."""
_COUNTS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Frame:
    """The result's weights by their stored names, and the whole config that they then have."""

    checkpoint: Checkpoint
    tensors: Mapping[str, Stored]
    config: Mapping[str, Any]
    changed: Mapping[str, Any] = field(default_factory=dict)
    """The keys of `config` that are not the base's."""
    headed: Headed | None = None

    @cached_property
    def by_canonical(self) -> Mapping[str, str]:
        """Stored name by canonical parameter path."""
        return {path: name for name, path in canonical_names(self.tensors).items()}

    @property
    def model_types(self) -> frozenset[str]:
        """The families of the base and of the parts of a composite one, such as the decoder of an encoder-decoder."""
        parts = [self.config, *(value for value in self.config.values() if isinstance(value, dict))]
        return frozenset(kind for part in parts if (kind := config_facts(part)["model_type"]))


def framed(checkpoint: Checkpoint, ranges: Ranges | None) -> Frame:
    """The frame with layers repeated in half-open `ranges`.

    Raises RefusedError for ranges that the base does not have, all at once, for a base without such layers, and for one
    that holds others than its config tells of, such as those that predict further tokens.
    """
    if not ranges:
        return Frame(checkpoint, checkpoint.tensors, checkpoint.config)
    body, count = _layers(checkpoint)
    stated = _stated(checkpoint.config)
    if stated and count not in stated:
        message = f"layer_replication: config.json tells of {min(stated)} layers, the weights are of {count}"
        raise RefusedError([Finding("replication-config", "error", message, where="layer_replication")])
    wrong = [(start, end) for start, end in ranges if not 0 <= start < end <= count]
    if wrong:
        raise RefusedError([_beyond(one, count) for one in wrong])
    sources = [index for start, end in ranges for index in range(start, end)]
    tensors = dict(_repeated(checkpoint.tensors, body, sources))
    changed = _settings(checkpoint.config, sources, count)
    return Frame(checkpoint, tensors, {**checkpoint.config, **changed}, changed)


def _layers(checkpoint: Checkpoint) -> tuple[str, int]:
    """What stands before the numbers of the layers, and how many there are."""
    found = [match for name in checkpoint.tensors if (match := _LAYER.match(name))]
    if not found:
        message = "layer_replication: expected layers as Llama, BERT or GPT-2 name them, found none"
        raise RefusedError([Finding("replication-range", "error", message, where="layer_replication")])
    return found[0]["body"], 1 + max(int(match["number"]) for match in found)


def _repeated(tensors: Mapping[str, Stored], body: str, sources: Sequence[int]) -> Iterator[tuple[str, Stored]]:
    """Every tensor of a layer once per place in which the layer runs, the others as they are, in the base's order."""
    for name, stored in tensors.items():
        match = _LAYER.match(name)
        if match is None or match["body"] != body:
            yield name, stored
            continue
        for number, source in enumerate(sources):
            if source == int(match["number"]):
                yield f"{body}{number}.{name[match.end() :]}", stored


def _stated(config: Mapping[str, Any]) -> set[int]:
    """The numbers of layers that a config tells, its own and the text's."""
    inner = config.get("text_config")
    parts = [config, inner if isinstance(inner, dict) else {}]
    return {part[key] for part in parts for key in _COUNTS if isinstance(part.get(key), int)}


def _settings(config: Mapping[str, Any], sources: Sequence[int], count: int) -> dict[str, Any]:
    """The number of layers, and what a config says of each layer, such as layer_types; of the text's config too."""
    found: dict[str, Any] = {}
    for key in _COUNTS:
        if config.get(key) == count:
            found[key] = len(sources)
    for key, value in config.items():
        if found and "layer" in key and isinstance(value, list) and len(value) == count:
            found[key] = [value[source] for source in sources]
        if key == "text_config" and isinstance(value, dict) and (inner := _settings(value, sources, count)):
            found[key] = {**value, **inner}
    return found


def _beyond(one: tuple[int, int], count: int) -> Finding:
    message = f"layer_replication: expected 0 <= start < end <= {count}, found {list(one)}"
    return Finding("replication-range", "error", message, where="layer_replication")
