"""Scales and ranks: every module at one rank and one lora_alpha / r, without rsLoRA and patterns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import number, refused
from engine.convert.rewrite.pairs import padded, pair_of, require_plain, scaled

if TYPE_CHECKING:
    from engine.convert.rewrite.draft import Draft, Made
    from engine.format.facts import ModuleFacts

# Two scalings are one where they differ by rounding alone: 16 / 8 and sqrt(8) * sqrt(8) / 4.
_CLOSE = 1e-12


@dataclass(frozen=True, slots=True)
class Wanted:
    """How scales must be written. `whole`: lora_alpha is an integer. `unit`: no reader of alpha, so alpha = r."""

    rank: int | None = None
    whole: bool = False
    unit: bool = False


def uniform(draft: Draft, wanted: Wanted) -> Draft:
    """The draft at one rank, the largest or the wanted one, and one scaling; what others were scaled by goes into B.

    The scaling kept is that of most modules, so that their tensors stay untouched; 1 (alpha = r) where `unit`, or
    where its alpha would not be whole and must be.
    """
    facts = draft.facts()
    require_plain(facts, "fold scales and ranks")
    pairs = [pair_of(draft, module) for module in facts.modules]
    if not pairs:
        return draft
    rank = _rank(max(pair.rank for pair in pairs), wanted)
    scale = _scale([pair.module for pair in pairs], rank, wanted)
    factors = {pair.module.name: _ratio(pair.module.scaling, scale) for pair in pairs}
    _refuse_ties(draft, factors)
    tensors: dict[str, Made] = {}
    for pair in pairs:
        tensors |= padded(scaled(pair, factors[pair.module.name]), rank).tensors()
    alpha = number(_rounded(scale * rank))
    return draft.with_tensors(tensors).with_config(
        r=rank, lora_alpha=alpha, use_rslora=False, rank_pattern={}, alpha_pattern={}
    )


def _rank(largest: int, wanted: Wanted) -> int:
    if wanted.rank is not None and wanted.rank < largest:
        raise refused("rank", f"rank {wanted.rank}: expected at least {largest}, the largest; ranks are only padded")
    return wanted.rank or largest


def _scale(modules: list[ModuleFacts], rank: int, wanted: Wanted) -> float:
    """The scaling of most modules, of equally many the larger; 1 where it cannot be written."""
    counted = Counter(f"{module.scaling:.12g}" for module in modules)
    common = max(counted, key=lambda text: (counted[text], float(text)))
    scale = next(module.scaling for module in modules if f"{module.scaling:.12g}" == common)
    alpha = _rounded(scale * rank)
    writable = isfinite(alpha) and alpha > 0 and (alpha.is_integer() or not wanted.whole)
    return scale if writable and not wanted.unit else 1.0


def _ratio(scaling: float, scale: float) -> float:
    factor = scaling / scale
    return 1.0 if abs(factor - 1) <= _CLOSE else factor


def _rounded(alpha: float) -> float:
    """The whole number where alpha is one but for rounding."""
    whole = float(round(alpha)) if isfinite(alpha) else alpha
    return whole if abs(alpha - whole) <= _CLOSE * abs(whole) else alpha


def _refuse_ties(draft: Draft, factors: dict[str, float]) -> None:
    if draft.config.get("ensure_weight_tying") and any(factor != 1 for factor in factors.values()):
        raise refused(
            "tied",
            "ensure_weight_tying: tied modules share their factors, transposed; a scale in B alone would end that",
            where="ensure_weight_tying",
        )
