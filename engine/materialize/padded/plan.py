"""What an adapter is at the rank and over the modules of a set, so that PEFT swaps any of the set for any other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from engine.compat.together.check import check_together
from engine.convert.rewrite.downlevel import trained_initialisation
from engine.convert.rewrite.draft import Made, draft_of, refused
from engine.convert.rewrite.names import peft_names
from engine.convert.rewrite.scales import Wanted, uniform
from engine.convert.rewrite.targets import explicit_targets
from engine.errors import OptionError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.compat.finding import Finding
    from engine.convert.rewrite.draft import Draft
    from engine.format.facts import AdapterFacts

_NOT_ASKED = frozenset({"hotswap-alone", "hotswap-base"})
"""One adapter is padded too; whether several are for one base is for the caller to know, who names it."""
_CLEARED = frozenset({"hotswap-settings", "hotswap-places", "hotswap-scaling", "hotswap-rank"})
_VARIANTS = ("alora_invocation_tokens", "arrow_config", "kasa_config", "lora_bias", "use_bdlora", "use_qalora")
"""Settings under which a module computes something else than scaling·B·A, or a swap leaves something behind."""


def plan_padded(facts: AdapterFacts, *, rank: int | None, over: Sequence[AdapterFacts] = ()) -> Draft:
    """The adapter at `rank` (None: the largest of all), with zeros for every module that one of `over` adapts.

    All modules have one scaling, lora_alpha / r; lora_dropout, on which no result depends, is 0. Raises RefusedError
    for what the hot swaps of PEFT and diffusers cannot carry, of any adapter; OptionError for a rank below 1.
    """
    everyone = (facts, *over)
    if rank is not None and rank < 1:
        raise OptionError(f"rank: expected a whole number of at least 1, found {rank}")
    for one in everyone:
        _refuse_variants(one)
    _refuse(everyone, everyone, passed=_NOT_ASKED | _CLEARED)
    rank = rank or max(one.rank or 1 for one in everyone)
    drafts = [_at_rank(one, rank) for one in everyone]
    places = {name: made for draft in reversed(drafts) for name, made in draft.tensors.items()}
    wide = [_with_places(draft, places) for draft in drafts]
    _refuse([draft.facts() for draft in wide], everyone, passed=_NOT_ASKED)
    return wide[0]


def _refuse(facts: Sequence[AdapterFacts], called: Iterable[AdapterFacts], *, passed: frozenset[str]) -> None:
    found = check_together(facts, "hotswap", names=[str(one.path) for one in called]).findings
    errors: list[Finding] = [one for one in found if one.severity == "error" and one.rule not in passed]
    if errors:
        raise RefusedError(errors)


def _refuse_variants(facts: AdapterFacts) -> None:
    if facts.config.lora is None:
        return  # its type is refused with the rest
    for key in _VARIANTS:
        if getattr(facts.config.lora, key):
            raise refused("hotswap", f"{facts.path}: {key} cannot be hot-swapped", where=key)
    for module in facts.modules:
        if module.kind in ("parameter", "unknown"):
            message = f"{facts.path}: factors of the {module.kind} {module.name} cannot be hot-swapped"
            raise refused("hotswap", message, where=module.name)
    for name in (*facts.incomplete, *facts.unmatched):
        raise refused("hotswap", f"{facts.path}: nothing explains {name}", where=name)
    if not facts.modules:
        raise refused("hotswap", f"{facts.path}: no module has factors")


def _at_rank(facts: AdapterFacts, rank: int) -> Draft:
    draft = uniform(trained_initialisation(peft_names(draft_of(facts))), Wanted(rank))
    return draft.with_config(lora_dropout=0.0)


def _with_places(draft: Draft, places: dict[str, Made]) -> Draft:
    """The draft with zeros for every tensor that it lacks, in the dtype of most of its own."""
    dtype = Counter(made.dtype for made in draft.tensors.values()).most_common(1)[0][0]
    zeros = {name: Made(dtype, made.shape, ()) for name, made in places.items() if name not in draft.tensors}
    return explicit_targets(draft.with_tensors(zeros))
