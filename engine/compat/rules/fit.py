"""Rules over adapter and base together: is every adapted module there, and has it the shape the factors need?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.layers import base_name, fits_parameter, implied_weight, index_of
from engine.compat.rule import Hit, listed, size, strings
from engine.format.names.renamed import RENAMED_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.layers import BaseIndex, Shape
    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

_EMBEDDINGS = frozenset(
    {"embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in", "embed_out", "tok_embeddings"}
)


_OTHER_BASE = "adapters check REF --base B, with the base it was trained on"


def absent(subject: Subject) -> Iterator[Hit]:
    if _stored_otherwise(subject):
        return
    for name in _missing(subject):
        yield Hit(f"module {name}: the base has no module of this name", name, _OTHER_BASE)


def renamed(subject: Subject) -> Iterator[Hit]:
    missing = _missing(subject) if _stored_otherwise(subject) else []
    if missing:
        kind = subject.base.model_type if subject.base else None
        yield Hit(
            f"{listed(missing)}: not looked for, since checkpoints of {kind} hold other names than its modules have",
            fix="adapters base add CONFIG.json --name NAME compares with the modules themselves",
        )


def _missing(subject: Subject) -> list[str]:
    if subject.base is None:
        return []
    index = index_of(subject.base)
    names = [module.name for module in subject.facts.modules]
    return [name for name in names if not index.has_module(base_name(name, subject.raw))]


def _stored_otherwise(subject: Subject) -> bool:
    """Whether the base was read from headers that need not hold its modules' names."""
    base = subject.base
    return base is not None and base.fingerprint is not None and base.model_type in RENAMED_TYPES


def shape(subject: Subject) -> Iterator[Hit]:
    """Every factor pair fits its weight; packed weights of quantised bases say nothing about shapes."""
    if subject.base is None or subject.base.quantization is not None:
        return
    index = index_of(subject.base)
    for module in subject.facts.modules:
        name = base_name(module.name, subject.raw)
        weight = index.weight(name)
        if module.kind == "parameter" or (weight is None and subject.raw.get("target_parameters")):
            yield from _parameter_hits(module, index.own_parameters(name))
        elif weight is not None and not _fits(subject, index, module, weight):
            yield _shape_hit(module, weight)


def _fits(subject: Subject, index: BaseIndex, module: ModuleFacts, weight: Shape) -> bool:
    implied = implied_weight(module)
    if implied is None or implied == weight:
        return True
    if module.kind == "linear":
        transposed = index.transposed(fan_in_fan_out=bool(subject.raw.get("fan_in_fan_out")))
        if (transposed and implied[::-1] == weight) or _folded(subject, implied, weight):
            return True
    # A resized vocabulary: the resized table itself travels with the adapter and replaces the base's.
    return implied == _shipped_table(subject, module)


def _folded(subject: Subject, implied: Shape, weight: Shape) -> bool:
    """QA-LoRA averages inputs by group and BD-LoRA stores blocks: the stored sides divide the weight's."""
    if not (subject.raw.get("use_qalora") or subject.raw.get("use_bdlora")) or len(weight) != 2 or 0 in implied:
        return False
    return weight[0] % implied[0] == 0 and weight[1] % implied[1] == 0


def _shipped_table(subject: Subject, module: ModuleFacts) -> Shape | None:
    stem = module.a_key.partition(".lora_")[0]
    tensor = subject.facts.header.tensors.get(f"{stem}.base_layer.weight")
    return None if tensor is None else tensor.shape


def _shape_hit(module: ModuleFacts, weight: Shape) -> Hit:
    implied = implied_weight(module)
    return Hit(
        f"module {module.name}: A {size(module.a_shape)} and B {size(module.b_shape)} fit a weight of shape "
        f"{size(implied or ())}, the base's is {size(weight)}",
        module.a_key,
        _OTHER_BASE,
    )


def _parameter_hits(module: ModuleFacts, candidates: dict[str, Shape]) -> Iterator[Hit]:
    if candidates and not any(fits_parameter(module, candidate) for candidate in candidates.values()):
        found = ", ".join(f"{path} {size(candidate)}" for path, candidate in sorted(candidates.items()))
        factors = f"A {size(module.a_shape)} and B {size(module.b_shape)}"
        yield Hit(f"module {module.name}: {factors} fit none of its parameters: {found}", module.a_key, _OTHER_BASE)


def quantized(subject: Subject) -> Iterator[Hit]:
    if subject.base is not None and subject.base.quantization is not None and subject.facts.modules:
        yield Hit(f"the base is quantised ({subject.base.quantization}); shapes were not compared")


def copies(subject: Subject) -> Iterator[Hit]:
    """A full tensor in the adapter replaces one of the base, so it has the base's shape."""
    for name, found, expected in _differing_copies(subject):
        if not _resized(subject, name, found, expected):
            yield Hit(f"tensor {name}: expected {size(expected)} as in the base, found {size(found)}", where=name)


def resized_copies(subject: Subject) -> Iterator[Hit]:
    """Another vocabulary or another number of labels: legal, but the base must be resized before loading."""
    for name, found, expected in _differing_copies(subject):
        if _resized(subject, name, found, expected):
            yield Hit(
                f"tensor {name}: {found[0]} rows, the base has {expected[0]}; resize the base before loading",
                where=name,
            )


def _differing_copies(subject: Subject) -> Iterator[tuple[str, Shape, Shape]]:
    if subject.base is None or subject.base.quantization is not None:
        return
    index = index_of(subject.base)
    tensors = subject.facts.header.tensors
    for name in subject.facts.others:
        path = _copied_path(name, subject)
        expected = index.shape(path) if path is not None else None
        if expected is not None and tensors[name].shape != expected:
            yield name, tensors[name].shape, expected


def _copied_path(name: str, subject: Subject) -> str | None:
    """Give the base parameter that a tensor replaces, None for tensors of a method's own."""
    leaf = name.rpartition(".")[2]
    if (
        leaf not in ("weight", "bias")
        or ".lora_" in name
        or ".token_adapter." in name
        or name not in subject.facts.others
    ):
        return None
    return base_name(name.removeprefix("base_model.model."), subject.raw)


def _resized(subject: Subject, name: str, found: Shape, expected: Shape) -> bool:
    if len(found) != len(expected) or found[1:] != expected[1:]:
        return False
    parts = frozenset(name.split("."))
    return bool(
        parts & _EMBEDDINGS or parts & {part.rpartition(".")[2] for part in strings(subject.raw.get("modules_to_save"))}
    )
