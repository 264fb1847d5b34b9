"""What a version's rows keep of its adapter, so that rules run again without its files.

Three documents together hold what `engine.format.facts.AdapterFacts` and `ValueFacts` hold: `config` and `modules`,
which `show` prints, and `facts`, which has only what cannot be derived from those. Byte ranges are not kept: every
tensor starts at 0 here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from engine.format.adapter import CONFIG_NAME
from engine.format.config import parse_config
from engine.format.facts import AdapterFacts, ModuleFacts
from engine.format.header import BITS
from engine.format.tensors import Header, TensorInfo
from engine.format.values import ValueFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KIND = "facts"
SCHEMA = 1
NEEDED = ("config", "modules", KIND)


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
        "nonfinite": dict(values.nonfinite),
        "zero": list(values.zero),
        "unscanned": list(values.unscanned),
    }


def read_stored(documents: Mapping[str, str], folder: Path) -> tuple[AdapterFacts, ValueFacts] | None:
    """The facts in a version's documents, None where they are not all there. `folder` is only named in them."""
    if any(kind not in documents for kind in NEEDED):
        return None
    kept = json.loads(documents[KIND])
    if kept["schema"] != SCHEMA:
        return None
    config = parse_config(documents["config"].encode(), folder / CONFIG_NAME)
    modules = tuple(_module(entry, kept) for entry in json.loads(documents["modules"]))
    tensors = {name: _tensor(name, dtype, shape) for name, (dtype, shape) in _factors(modules).items()}
    tensors |= {name: _tensor(name, dtype, tuple(shape)) for name, dtype, shape in kept["tensors"]}
    facts = AdapterFacts(
        path=folder,
        config=replace(config, size=kept["config"]["size"], duplicates=tuple(kept["config"]["duplicates"])),
        weights=folder / kept["weights"]["name"],
        header=Header(tensors, 0, kept["weights"]["size"]),
        modules=modules,
        incomplete={name: tuple(found) for name, found in kept["incomplete"].items()},
        others=kept["others"],
        unmatched=tuple(kept["unmatched"]),
    )
    values = ValueFacts(
        nonfinite=kept["nonfinite"],
        zero=tuple(kept["zero"]),
        norms={module.name: module.norm for module in modules},
        unscanned=tuple(kept["unscanned"]),
        tensors_digest="",
    )
    return facts, values


def _module(entry: Mapping[str, Any], kept: Mapping[str, Any]) -> ModuleFacts:
    name = entry["name"]
    a_key, b_key = kept["keys"].get(name) or _keys(name)
    spectrum = entry.get("spectrum")
    return ModuleFacts(
        name=name,
        kind=entry["kind"],
        rank=entry["rank"],
        alpha=entry["alpha"],
        scaling=entry["scaling"],
        a_shape=tuple(entry["a_shape"]),
        b_shape=tuple(entry["b_shape"]),
        dtype=entry["dtype"],
        a_key=a_key,
        b_key=b_key,
        extras=tuple(kept["extras"].get(name, ())),
        configured_rank=kept["configured"].get(name, entry["rank"]),
        norm=entry.get("norm"),
        spectrum=None if spectrum is None else tuple(spectrum),
    )


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


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(name, dtype, shape, 0, prod(shape) * BITS[dtype] // 8)
