"""What a version's rows keep of its adapter, so that rules run again without its files.

Three documents together hold what `engine.format.facts.AdapterFacts` and `ValueFacts` hold: `config` and `modules`,
which `show` prints, and `facts`, which has only what cannot be derived from those. Byte ranges are not kept: every
tensor starts at 0 here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compat.newest import Newest
from engine.format.adapter import CONFIG_NAME
from engine.format.configs.config import parse_config
from engine.format.facts import AdapterFacts, ModuleFacts
from engine.format.files.header import BITS
from engine.format.files.tensors import Header, TensorInfo
from engine.format.numbers.values import ValueFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.format.configs.config import AdapterConfig

KIND = "facts"
SCHEMA = 1
NEEDED = ("config", "modules", KIND)
# What the tables of engines read of a header besides tensors; diffusers keeps settings there.
_METADATA = ("lora_adapter_metadata",)
_OF_VALUES = frozenset({"nonfinite", "zero", "unscanned"})

_MOST_FACTS = 256  # facts take about 300 KB for 224 modules
_MOST_TENSORS = 65_536
_NOWHERE = Path()
# As `examine.documents` writes them. A quote inside a name is escaped, so that a name never looks like these keys.
_MEASURED = re.compile(r',"norm":([^,\]}]+),"spectrum":(?:null|\[[^\]]*\])')


def facts_document(facts: AdapterFacts, values: ValueFacts) -> dict[str, Any]:
    """The document of kind `facts`."""
    derived = _factors(facts.modules)
    others = [one for name, one in facts.header.tensors.items() if _plain(one) != derived.get(name)]
    return {
        "schema": SCHEMA,
        "config": {"size": facts.config.size, "duplicates": list(facts.config.duplicates)},
        "weights": {"name": facts.weights.name, "size": facts.header.file_size},
        "keys": {one.name: keys for one in facts.modules if (keys := (one.a_key, one.b_key)) != _keys(one.name)},
        "extras": {one.name: list(one.extras) for one in facts.modules if one.extras},
        "configured": {one.name: one.configured_rank for one in facts.modules if one.configured_rank != one.rank},
        "tensors": [[one.name, *_plain(one)] for one in others],
        "incomplete": {name: list(found) for name, found in facts.incomplete.items()},
        "others": dict(facts.others),
        "unmatched": list(facts.unmatched),
        "metadata": {key: held for key in _METADATA if (held := facts.header.metadata.get(key)) is not None},
        "nonfinite": dict(values.nonfinite),
        "zero": list(values.zero),
        "unscanned": list(values.unscanned),
    }


def read_stored(documents: Mapping[str, str], folder: Path) -> tuple[AdapterFacts, ValueFacts] | None:
    """The facts in a version's documents, None where they are not all there. `folder` is only named in them."""
    kept = _kept(documents)
    if kept is None:
        return None
    config = parse_config(documents["config"].encode(), folder / CONFIG_NAME)
    modules = tuple(_module(entry, kept) for entry in json.loads(documents["modules"]))
    facts = _facts(config, folder, kept, modules, _tensors(modules, kept))
    return facts, _values(kept, modules, [module.norm for module in modules])


class SharedFacts:
    """Reads the documents of many versions; a class because it keeps the newest facts.

    Versions whose documents differ in what was measured alone (norms, spectra, zeros, NaN) get the very same
    AdapterFacts, without norms, spectra and a folder; those that differ in the config too still share their modules and
    tensors. The values are each version's own.
    """

    def __init__(self) -> None:
        self._facts = Newest[AdapterFacts](_MOST_FACTS)
        self._parts = Newest[tuple[tuple[ModuleFacts, ...], dict[str, TensorInfo]]](_MOST_FACTS)

    def read(self, documents: Mapping[str, str]) -> tuple[AdapterFacts, ValueFacts] | None:
        """As `read_stored`."""
        kept = _kept(documents)
        if kept is None:
            return None
        bare, texts = _without_measured(documents["modules"])
        facts = self._alike(documents["config"], bare, kept)
        norms: list[float | None] = json.loads(f"[{','.join(texts)}]")
        if len(norms) != len(facts.modules):  # written in another way
            norms = [entry.get("norm") for entry in json.loads(documents["modules"])]
        return facts, _values(kept, facts.modules, norms)

    def facts(self, documents: Mapping[str, str]) -> AdapterFacts | None:
        """The same without the values."""
        kept = _kept(documents)
        return (
            None if kept is None else self._alike(documents["config"], _without_measured(documents["modules"])[0], kept)
        )

    def _alike(self, config: str, bare: str, kept: Mapping[str, Any]) -> AdapterFacts:
        unmeasured = {key: held for key, held in kept.items() if key not in _OF_VALUES}
        alike = (_digest(bare), _digest(json.dumps(unmeasured)))

        def parts() -> tuple[tuple[ModuleFacts, ...], dict[str, TensorInfo]]:
            modules = tuple(_module(entry, kept) for entry in json.loads(bare))
            return modules, _tensors(modules, kept)

        def facts() -> AdapterFacts:
            parsed = parse_config(config.encode(), _NOWHERE / CONFIG_NAME)
            return _facts(parsed, _NOWHERE, kept, *self._parts.get(alike, parts))

        return self._facts.get((_digest(config), *alike), facts)


def _without_measured(modules: str) -> tuple[str, list[str]]:
    """The document without norms and spectra, and the JSON of its norms in order."""
    pieces = _MEASURED.split(modules)
    return "".join(pieces[::2]), pieces[1::2]


def _digest(text: str) -> bytes:
    return blake2b(text.encode()).digest()


def _kept(documents: Mapping[str, str]) -> dict[str, Any] | None:
    if any(kind not in documents for kind in NEEDED):
        return None
    kept: dict[str, Any] = json.loads(documents[KIND])
    return kept if kept["schema"] == SCHEMA else None


def _facts(
    config: AdapterConfig,
    folder: Path,
    kept: Mapping[str, Any],
    modules: tuple[ModuleFacts, ...],
    tensors: dict[str, TensorInfo],
) -> AdapterFacts:
    return AdapterFacts(
        path=folder,
        config=replace(config, size=kept["config"]["size"], duplicates=tuple(kept["config"]["duplicates"])),
        weights=folder / kept["weights"]["name"],
        header=Header(tensors, 0, kept["weights"]["size"], kept.get("metadata", {})),
        modules=modules,
        incomplete={name: tuple(found) for name, found in kept["incomplete"].items()},
        others=kept["others"],
        unmatched=tuple(kept["unmatched"]),
    )


def _values(kept: Mapping[str, Any], modules: Sequence[ModuleFacts], norms: Sequence[float | None]) -> ValueFacts:
    return ValueFacts(
        nonfinite=kept["nonfinite"],
        zero=tuple(kept["zero"]),
        norms={module.name: norm for module, norm in zip(modules, norms, strict=True)},
        unscanned=tuple(kept["unscanned"]),
        tensors_digest="",
    )


def _tensors(modules: Sequence[ModuleFacts], kept: Mapping[str, Any]) -> dict[str, TensorInfo]:
    tensors = {name: _tensor(name, dtype, shape) for name, (dtype, shape) in _factors(modules).items()}
    return tensors | {name: _tensor(name, dtype, tuple(shape)) for name, dtype, shape in kept["tensors"]}


def _module(entry: Mapping[str, Any], kept: Mapping[str, Any]) -> ModuleFacts:
    name = entry["name"]
    a_key, b_key = kept["keys"].get(name) or _keys(name)
    spectrum, rank = entry.get("spectrum"), entry["rank"]
    return ModuleFacts(
        name=name,
        kind=entry["kind"],
        rank=rank,
        alpha=entry["alpha"],
        scaling=entry["scaling"],
        a_shape=tuple(entry["a_shape"]),
        b_shape=tuple(entry["b_shape"]),
        dtype=entry["dtype"],
        a_key=a_key,
        b_key=b_key,
        extras=tuple(kept["extras"].get(name, ())),
        configured_rank=kept["configured"].get(name, rank),
        norm=entry.get("norm"),
        spectrum=None if spectrum is None else tuple(spectrum),
    )


@lru_cache(_MOST_TENSORS)
def _keys(name: str) -> tuple[str, str]:
    """How PEFT names the factors of most modules."""
    return f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight"


def _factors(modules: Iterable[ModuleFacts]) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = {}
    for module in modules:
        found[module.a_key] = (module.dtype, module.a_shape)
        found[module.b_key] = (module.dtype, module.b_shape)
    return found


def _plain(tensor: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype, tensor.shape


# Thousands of adapters have the same few hundred tensors.
@lru_cache(_MOST_TENSORS)
def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(name, dtype, shape, 0, prod(shape) * BITS[dtype] // 8)
