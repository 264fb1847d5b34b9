"""How a module's name in an adapter finds its parameter in a base, and which weight shape its factors imply."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from engine.compat.newest import Newest
from engine.format.names.canonical import OUTPUT_NAMES, canonical, ends_with_any, is_tied_name, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.format.facts import BaseFacts, ModuleFacts

Shape = tuple[int, ...]

# transformers models built from its Conv1D, whose weight is stored (in, out).
TRANSPOSED_TYPES = frozenset({"gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
INPUT_NAMES = frozenset(
    {"embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
     "tokens_embed.weight", "tok_embeddings.weight", "embeddings.weight", "word_embedding.weight"}
)  # fmt: skip
_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # architectures that have an output table
_LAYER_NUMBER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?=\.|$)")
_MOST_LAYERS = 10_000
_MOST_NAMES = 16_384
_MOST_SELECTIONS = 16
_MOST_DIGITS = 9
_MIXTURE_PARTS = frozenset({"experts", "gate", "router", "block_sparse_moe", "shared_expert", "shared_expert_gate"})


def base_name(module: str, raw: Mapping[str, Any]) -> str:
    """Give the module's path in the base: without PEFT's nesting, a replicated layer under its source's number."""
    plain = ".".join(part for part in module.split(".") if part != "base_layer") if "base_layer" in module else module
    ranges = raw.get("layer_replication")
    sources = _replicated(ranges) if ranges else []
    number = _LAYER_NUMBER.search(plain) if sources else None
    # longer numbers than any model has layers are no Python integers by default
    if number is None or len(number[1]) > _MOST_DIGITS or int(number[1]) >= len(sources):
        return plain
    return plain[: number.start(1)] + str(sources[int(number[1])]) + plain[number.end(1) :]


def _replicated(ranges: object) -> list[int]:
    if not isinstance(ranges, (list, tuple)):
        return []
    pairs = [pair for pair in ranges if isinstance(pair, (list, tuple)) and len(pair) == 2]
    bounded = [range(*pair) for pair in pairs if all(isinstance(side, int) and side >= 0 for side in pair)]
    return list(islice(chain.from_iterable(bounded), _MOST_LAYERS))


_newest: list[BaseIndex] = []
_MOST_KEPT = 4


def index_of(base: BaseFacts) -> BaseIndex:
    """The index of a base; the newest few are kept, since many rules and adapters ask about the same bases in turn."""
    for kept in _newest:
        if kept.base is base:
            return kept
    found = BaseIndex(base)
    _newest[:] = [found, *_newest[: _MOST_KEPT - 1]]
    return found


class BaseIndex:
    """Lookups into a base's parameters; holds no file."""

    def __init__(self, base: BaseFacts) -> None:
        self.base = base
        self.parameters = base.parameters
        self.quantized = base.quantization is not None
        self._transposed = base.model_type in TRANSPOSED_TYPES
        self._untyped = base.model_type is None
        self._modules = frozenset(_ancestors(base.parameters))
        self._mixture = any("experts" in path.split(".") for path in base.parameters)
        # Many adapters ask for the same few hundred modules.
        self.has_module = lru_cache(_MOST_NAMES)(self._has_module)
        self.weight = lru_cache(_MOST_NAMES)(self._weight)
        self.selections = Newest[tuple[str, ...]](_MOST_SELECTIONS)

    def shape(self, path: str) -> Shape | None:
        """Give a parameter's shape; a tied output layer or embedding copy has its source's."""
        for name in (canonical(path), unwrapped(path)):
            if name in self.parameters:
                return self.parameters[name]
        if is_tied_name(path):
            sources = [name for name in self.parameters if ends_with_any(name, INPUT_NAMES)]
            return self.parameters[min(sources, key=len)] if sources else None
        return None

    def _has_module(self, module: str) -> bool:
        """Say whether the base has this module. Experts stored one by one and fused on load count as present."""
        if canonical(module) in self._modules or unwrapped(module) in self._modules:
            return True
        if self.shape(f"{module}.weight") is not None:
            return True
        return self._mixture and bool(_MIXTURE_PARTS & frozenset(module.split(".")))

    def _weight(self, module: str) -> Shape | None:
        """Give the shape of a module's weight, None where it has none of its own."""
        for leaf in ("weight", "in_proj_weight"):
            if (found := self.shape(f"{module}.{leaf}")) is not None:
                return found
        return None

    def own_parameters(self, module: str) -> dict[str, Shape]:
        """Give the module's direct parameters of 2 or 3 dimensions, by name."""
        start = canonical(module) + "."
        return {
            path: shape
            for path, shape in self.parameters.items()
            if path.startswith(start) and "." not in path.removeprefix(start) and len(shape) in (2, 3)
        }

    @cached_property
    def linear_modules(self) -> tuple[str, ...]:
        """Modules with a weight of two or more dimensions, without experts and layers that no model builds."""
        return tuple(_linear_modules(self.base))

    @cached_property
    def layers(self) -> int | None:
        """How many layers there are, as `layer_count` says."""
        return layer_count(self.base)

    @cached_property
    def tied(self) -> bool:
        """Whether one table is the input and the output: as the config says, else where no output table is stored."""
        stated = self.base.config.get("tie_word_embeddings")
        if isinstance(stated, bool):
            return stated
        writes = (self.base.architecture or "").endswith(_WRITERS)
        return writes and not any(ends_with_any(path, OUTPUT_NAMES) for path in self.parameters)

    def transposed(self, *, fan_in_fan_out: bool) -> bool:
        """Say whether linear weights may be stored (in, out)."""
        return self._transposed or (self._untyped and fan_in_fan_out)


def layer_number(module: str) -> int | None:
    """The number of the layer that a module lies in, None outside the numbered ones."""
    found = _LAYER_NUMBER.search(module)
    return None if found is None or len(found[1]) > _MOST_DIGITS else int(found[1])


def layer_count(base: BaseFacts) -> int | None:
    """How many layers the base's config states, else has numbers for; None where none are numbered."""
    stated = base.config.get("num_hidden_layers", base.config.get("n_layer"))
    if isinstance(stated, int) and stated > 0:
        return stated
    numbers = {number for path in base.parameters if (number := layer_number(path)) is not None}
    return max(numbers) + 1 if numbers else None


def _linear_modules(base: BaseFacts) -> Iterator[str]:
    layers = base.config.get("num_hidden_layers")
    for path, shape in base.parameters.items():
        module, _, leaf = path.rpartition(".")
        if leaf != "weight" or len(shape) < 2 or not module:
            continue
        number = layer_number(module)
        beyond = isinstance(layers, int) and number is not None and number >= layers
        if not beyond and not {"experts", "mtp"} & set(module.split(".")):
            yield module


def is_transposed_type(base: BaseFacts) -> bool:
    """Whether the base's family stores linear weights (in, out)."""
    return base.model_type in TRANSPOSED_TYPES


def _ancestors(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition(".")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition(".")[0]
    return found


def implied_weight(module: ModuleFacts) -> Shape | None:
    """Give the weight shape that fits the factors: (out, in), (vocab, dim) or (out, in / groups, *kernel)."""
    a, b = module.a_shape, module.b_shape
    if len(a) < 2 or len(b) < 2:
        return None
    if module.kind == "linear":
        return (b[0], a[1])
    if module.kind == "embedding":
        return (a[1], b[0])
    if module.kind in ("conv1d", "conv2d", "conv3d") and b[1] and a[0] % b[1] == 0:
        return (b[0], a[1] // (a[0] // b[1]), *a[2:])
    return None


def fits_parameter(module: ModuleFacts, shape: Shape) -> bool:
    """Say whether factors of a targeted parameter fit it: (out, in), (in, out) or the same per expert."""
    fan_in, fan_out = module.a_shape[1], module.b_shape[0]
    if len(shape) == 3:
        experts, *sides = shape
        return experts > 0 and module.a_shape[0] % experts == 0 and sides in ([fan_out, fan_in], [fan_in, fan_out])
    return shape in ((fan_out, fan_in), (fan_in, fan_out))
