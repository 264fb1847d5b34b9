"""Rules over shapes inside the adapter: factor against factor, factor against config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, size
from engine.format.configs.patterns import Matcher
from engine.format.names.keys import wrapped_path
from engine.format.names.modules import parameter_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

_CONV_KINDS = frozenset({"conv1d", "conv2d", "conv3d"})


def inner(subject: Subject) -> Iterator[Hit]:
    """A's first dimension is B's second; a grouped convolution's B has rank / groups there."""
    for module in subject.facts.modules:
        a, b = module.a_shape, module.b_shape
        if len(a) < 2 or len(b) < 2:
            yield Hit(
                f"module {module.name}: expected factors of 2 or more dimensions, found A {size(a)}, B {size(b)}",
                module.name,
            )
        elif not _joins(module):
            yield Hit(
                f"tensor {module.b_key}: expected {a[0]} columns to match {module.a_key} {size(a)}, found {size(b)}",
                where=module.b_key,
            )


def _joins(module: ModuleFacts) -> bool:
    a, b = module.a_shape, module.b_shape
    if module.kind in _CONV_KINDS:
        return b[1] > 0 and a[0] % b[1] == 0
    return a[0] == b[1]


def rank(subject: Subject) -> Iterator[Hit]:
    """The rank that config, rank_pattern included, gives a module is the one its A has."""
    lora = subject.facts.config.lora
    if lora is None:
        return
    matcher = Matcher(lora)
    for module in subject.facts.modules:
        expected = _expected_ranks(matcher, module)
        if not expected or not module.a_shape or _rank_fits(module, expected):
            continue
        source = "r and rank_pattern" if lora.rank_pattern else "r"
        wanted = " or ".join(map(str, expected))
        yield Hit(
            f"tensor {module.a_key}: expected rank {wanted} ({source} in the config), found {size(module.a_shape)}",
            where=module.a_key,
        )


def _expected_ranks(matcher: Matcher, module: ModuleFacts) -> list[int]:
    if module.kind != "parameter":
        return [] if module.configured_rank is None else [module.configured_rank]
    # The parameter's name is not in the key, and rank_pattern matches module.parameter: any listed one may be meant.
    owner = wrapped_path(module.name)
    leaves = {name.rpartition(".")[2] for name in parameter_names(owner, matcher.lora.target_parameters or ())}
    return sorted({matcher.effective(f"{owner}.{leaf}")[0] for leaf in leaves})


def _rank_fits(module: ModuleFacts, expected: list[int]) -> bool:
    found = module.a_shape[0]
    if module.kind == "parameter":  # experts x rank
        return any(value > 0 and found % value == 0 for value in expected)
    return found in expected


def extras(subject: Subject) -> Iterator[Hit]:
    """DoRA's magnitude and LoRA's own bias have one number per output."""
    tensors = subject.facts.header.tensors
    for module in subject.facts.modules:
        outputs = module.b_shape[0]
        for key in module.extras:
            if (
                key.endswith((".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_B.bias"))
                and key in tensors
            ):
                shape = tensors[key].shape
                if tensors[key].count != outputs:
                    yield Hit(
                        f"tensor {key}: expected {outputs} numbers, one per row of {module.b_key}, found {size(shape)}",
                        key,
                    )


def oversized_rank(subject: Subject) -> Iterator[Hit]:
    """A rank beyond the layer's own dimensions stores more than the layer it adapts."""
    for module in subject.facts.modules:
        if module.kind in ("linear", "embedding") and len(module.a_shape) == 2:
            fan_in, fan_out = module.a_shape[1], module.b_shape[0]
            if module.rank > min(fan_in, fan_out):
                yield Hit(
                    f"module {module.name}: rank {module.rank} exceeds its layer's smaller side {min(fan_in, fan_out)}",
                    module.name,
                )
