"""Embeddings that PEFT writes along with an adapter although they are the base's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.adapter import describe
from engine.format.base import has_weights, read_headers
from engine.format.names.canonical import canonical
from engine.format.names.keys import WRAPPER, parse_key
from engine.materialize.hotswap.standins import needs_base
from engine.materialize.stored.numbers import tensor_at
from engine.materialize.stored.place import placed

if TYPE_CHECKING:
    from pathlib import Path

    from engine.format.facts import AdapterFacts
    from engine.materialize.stored.place import Place


def without_repeated(facts: AdapterFacts, base: Path | None) -> AdapterFacts:
    """The adapter without the embeddings that only repeat the base's, which the model has anyway.

    Raises RefusedError for one that is the adapter's own, or where the base has no weights to compare it with.
    """
    names = [name for name, role in facts.others.items() if role == "embedding"]
    if not names or base is None:
        return facts
    if not has_weights(base):
        raise RefusedError([needs_base(name, "by its weights, whether the embedding is its own") for name in names])
    places = {canonical(name): place for name, place in _base_places(base).items()}
    own = [name for name in names if not _repeats(facts, name, places.get(_path_of(name)))]
    if own:
        raise RefusedError([_refused(name) for name in own])
    kept = {name: info for name, info in facts.header.tensors.items() if name not in names}
    header = replace(facts.header, tensors=kept)
    return describe(facts.config, header, config_path=facts.path / "adapter_config.json", weights_path=facts.weights)


def _refused(name: str) -> Finding:
    message = f"{name}: another embedding than the base's lies beside its factors; load the adapter's folder itself"
    return Finding("image-embedding", "error", message, where=name)


def _base_places(base: Path) -> dict[str, Place]:
    return {
        info.name: placed(file, header, info) for file, header in read_headers(base) for info in header.tensors.values()
    }


def _path_of(name: str) -> str:
    key = parse_key(name)
    return canonical(".".join([*(part for part in key.module.split(".") if part != WRAPPER), key.leaf]))


def _repeats(facts: AdapterFacts, name: str, place: Place | None) -> bool:
    """Whether the adapter's embedding, in the base's dtype, is the base's."""
    mine = placed(facts.weights, facts.header, facts.header.tensors[name])
    if place is None or place.shape != mine.shape:
        return False
    theirs = tensor_at(place)
    return torch.equal(tensor_at(mine).to(theirs.dtype), theirs)
