"""Rules over embeddings: tied ones, and rows that are replaced by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.layers import base_name, index_of
from engine.compat.rule import Hit, listed
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject

_INPUTS = frozenset({"embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings"})
_OUTPUTS = frozenset({"lm_head", "embed_out"})


def tied(subject: Subject) -> Iterator[Hit]:
    """An input or output table that the base shares with the other: a merge changes both."""
    if subject.base is None or not index_of(subject.base).tied:
        return
    found = [module.name for module in subject.facts.modules if _leaf(module.name) in _INPUTS | _OUTPUTS]
    found += [
        parse_key(name).module
        for name, role in subject.facts.others.items()
        if role == "modules_to_save" and _leaf(parse_key(name).module) in _INPUTS | _OUTPUTS
    ]
    if not found:
        return
    names = sorted(set(found))
    yield Hit(
        f"the base ties its input and output tables, and the adapter changes {listed(names)}: beside the base each "
        "table has its own change, merged into it both have all of them",
        names[0],
    )


def token_rows(subject: Subject) -> Iterator[Hit]:
    for name, _, indices in _tokens(subject):
        rows = subject.facts.header.tensors[name].shape[:1]
        if rows != (len(indices),):
            yield Hit(
                f"tensor {name}: expected {len(indices)} rows, one for each of trainable_token_indices, found "
                f"{rows[0] if rows else 'no'}",
                name,
            )


def token_numbers(subject: Subject) -> Iterator[Hit]:
    """PEFT writes these rows over the table's, so the table has them."""
    if subject.base is None:
        return
    index = index_of(subject.base)
    for name, module, indices in _tokens(subject):
        shape = _shipped(subject, module) or index.shape(f"{base_name(module, subject.raw)}.weight")
        wrong = [one for one in indices if shape is not None and not 0 <= one < shape[0]]
        if wrong and shape is not None:
            yield Hit(
                f"tensor {name}: token {wrong[0]} is none of the {shape[0]} rows of the base's table",
                "trainable_token_indices",
            )


def _tokens(subject: Subject) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Tensors of replaced rows: name, embedding, and the tokens that the config gives them."""
    given = None if subject.facts.config.lora is None else subject.facts.config.lora.trainable_token_indices
    for name, role in sorted(subject.facts.others.items()) if given is not None else ():
        if role != "tokens":
            continue
        module = parse_key(name).module
        if isinstance(given, tuple):
            yield name, module, given
        else:
            wanted = [one for key, one in (given or {}).items() if module == key or module.endswith(f".{key}")]
            yield from ((name, module, one) for one in wanted[:1])


def _shipped(subject: Subject, module: str) -> tuple[int, ...] | None:
    """The shape of a table that travels with the adapter and replaces the base's."""
    for name in subject.facts.others:
        key = parse_key(name)
        if key.leaf == "weight" and key.module.removesuffix(".token_adapter") == module:
            return subject.facts.header.tensors[name].shape
    return None


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]
