"""What an adapter holds besides factors: full copies of modules, biases, token rows, saved embeddings.

None of it is a ΔW, so no method sums it. What one parent alone has is carried byte for byte whatever its weight; what
several have is refused, averaged by weight, or taken from the first of them, as `other` says. Untrained copies, which
PEFT writes beside an adapted or resized embedding, are carried where all parents that have one have the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.compat.together.extras import (
    DECIDES,
    RULES,
    collisions,
    having,
    lora_of,
    saved_modules,
    token_modules,
    undecided,
    unlike_tokens,
)
from engine.compat.together.refusals import refusal
from engine.errors import OptionError
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import PREFIX, WRAPPER, parse_key
from engine.merge.dtypes import widest
from engine.merge.result.carried import Carried, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.compat.finding import Finding
    from engine.compat.together.extras import Other
    from engine.format.facts import AdapterFacts

CHOICES: tuple[Other, ...] = ("average", "first", "refuse")

TOKENS = "token_adapter"

DEBRIS = frozenset({"modules_to_save", "original_module"})
"""Components of names that PEFT writes twice, and reads nowhere, where bias='all' meets modules_to_save."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What the result's config says of them: its modules_to_save, bias, trainable_token_indices and lora_bias."""

    saved: tuple[str, ...] = ()
    bias: str = "none"
    tokens: Any = None
    lora_bias: bool = False


def parse_other(other: str) -> Other:
    """The choice of that name; raises OptionError."""
    for choice in CHOICES:
        if other == choice:
            return choice
    raise OptionError(f"other {other!r}: expected {', '.join(CHOICES)}")


def gather(parents: Sequence[AdapterFacts], other: Other) -> tuple[tuple[Carried, ...], Extras, list[Finding]]:
    """The tensors the result carries besides factors, what its config says of them, and why that cannot be."""
    findings = [*undecided(parents, other), *unlike_tokens(parents, other)]
    found: dict[str, list[tuple[str, str, Origin]]] = {}
    first_with_tokens = next(iter(having(parents, "tokens")), None)
    adapted = {module.base_name: module.name for facts in parents for module in facts.modules}
    for place, facts in enumerate(parents):
        for name, role in facts.others.items():
            if role not in RULES or DEBRIS & set(name.split(".")):
                continue
            if role == "tokens" and other == "first" and facts is not first_with_tokens:
                continue
            module, renamed = _place(name, role, adapted, token_modules(parents))
            found.setdefault(renamed, []).append((role, module, Origin(place, facts, facts.header.tensors[name])))
    told = {finding.rule for finding in findings}
    carried = []
    for name, entries in sorted(found.items()):
        role, module, _ = entries[0]
        one = _decided(name, role, module, [origin for _, _, origin in entries], other)
        if isinstance(one, Carried):
            carried.append(one)
        elif one.rule not in told:
            findings.append(one)
    extras = Extras(
        saved=tuple(sorted({module for facts in parents for module in saved_modules(facts)})),
        bias=_bias(parents),
        tokens=first_with_tokens and first_with_tokens.config.raw.get("trainable_token_indices"),
    )
    findings.extend(collisions(parents, extras.saved))
    return tuple(carried), extras, findings


def _place(name: str, role: str, adapted: Mapping[str, str], tokens: Iterable[str]) -> tuple[str, str]:
    """The module whose weights count, and PEFT's name of the tensor in the result.

    What belongs to a module lies under its wrapper where any parent, and so the result, adapts it.
    """
    key = parse_key(name)
    if role in ("modules_to_save", "tokens"):
        return key.module, PREFIX + name.removeprefix(PREFIX)
    module = ".".join(part for part in key.module.split(".") if part not in (WRAPPER, TOKENS))
    owner = f"{adapted[module]}.{WRAPPER}" if module in adapted else module
    if module in tokens:
        owner = f"{module}.{TOKENS}.{WRAPPER}"
    return module, f"{PREFIX}{owner}.{key.leaf}"


def _decided(name: str, role: str, module: str, origins: Sequence[Origin], other: Other) -> Carried | Finding:
    rule, first = RULES[role], origins[0].info
    copied = Carried(name, first.dtype, first.shape, module, (origins[0],), "copy", rule)
    if len(origins) == 1 or (role == "embedding" and all(_same(origins[0], origin) for origin in origins[1:])):
        return copied
    if other == "first":
        return copied
    infos = [origin.info for origin in origins]
    if other == "refuse":
        names = " and ".join(origin.facts.path.name for origin in origins)
        return refusal(rule, f"{name} differs between {names}{DECIDES}", where=name)
    if len({info.shape for info in infos}) > 1:
        shapes = " and ".join(sorted({str(list(info.shape)) for info in infos}))
        return refusal(rule, f"{name} has different shapes in the parents ({shapes}) and no mean", where=name)
    if not READABLE.issuperset(info.dtype for info in infos):
        return refusal(rule, f"{name} is no floating dtype in every parent and has no mean", where=name)
    return Carried(name, widest(info.dtype for info in infos), first.shape, module, tuple(origins), "mean", rule)


def _same(one: Origin, other: Origin) -> bool:
    if (one.info.dtype, one.info.shape) != (other.info.dtype, other.info.shape):
        return False
    with one.open() as left, other.open() as right:
        return all(a == b for a, b in zip(left.blocks(one.info), right.blocks(other.info), strict=True))


def _bias(parents: Sequence[AdapterFacts]) -> str:
    told = {lora_of(facts).bias for facts in having(parents, "bias")}
    return "all" if "all" in told else "lora_only" if told else "none"
