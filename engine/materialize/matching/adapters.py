"""Everything that one adapter does to a base, or every reason why it cannot be carried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.materialize.matching.copies import copy_effects
from engine.materialize.matching.effect import Effect
from engine.materialize.matching.layers import Layer, Worked, is_turned
from engine.materialize.matching.parameters import is_parameter, parameter_effects
from engine.model.fitting.claims import claims_of, completed
from engine.model.fitting.fit_tensors import Claims
from engine.model.fitting.unsupported import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.format.facts import AdapterFacts
    from engine.materialize.matching.seat import Shape
    from engine.materialize.matching.seats import Seats
    from engine.model.fitting.claims import Claim


def effects_of(facts: AdapterFacts, seats: Seats, weight: float) -> Iterator[Effect | Finding]:
    """What an adapter taken `weight` times does to parameters of the base; a finding for all that fits nowhere."""
    yield from unsupported(facts)
    facts = completed(facts)
    taken = Claims(
        modules={module.name for module in facts.modules if is_parameter(module, seats)}, tensors=set(_copies(facts))
    )
    claims, unclaimed = claims_of(facts, {}, taken)
    yield from unclaimed
    copies = list(copy_effects(facts, seats))
    yield from copies
    yield from parameter_effects(facts, seats, weight)
    shapes = {one.path: one.copy.shape for one in copies if isinstance(one, Effect) and one.copy is not None}
    for path, claim in claims.items():
        layer = _layer(facts, path, claim, seats, shapes)
        if layer is None:
            yield Finding("base-module-absent", "error", f"{path}: the base has no such module", where=path)
        else:
            yield from _worked(Worked(facts, claim, layer, weight))


def _copies(facts: AdapterFacts) -> Iterator[str]:
    return (name for name, role in facts.others.items() if role in ("modules_to_save", "embedding"))


def _worked(worked: Worked) -> Iterator[Effect | Finding]:
    misfits = list(worked.misfits())
    yield from misfits or worked.effects()


def _layer(facts: AdapterFacts, path: str, claim: Claim, seats: Seats, shapes: Mapping[str, Shape]) -> Layer | None:
    weight, bias = seats.of(f"{path}.weight"), seats.of(f"{path}.bias")
    if weight is None and (bias is None or claim.tensors.keys() != {"bias"}):
        return None
    shape = () if weight is None else shapes.get(weight.path, weight.shape)
    lora = facts.config.lora
    stated = bool(lora.fan_in_fan_out if lora else facts.config.raw.get("fan_in_fan_out"))
    turned = False
    if weight is not None and not weight.packed:
        turned = is_turned(path, shape, _widths(facts, claim), seats.frame.model_types, stated=stated)
    return Layer(path, weight, bias, shape, turned)


def _widths(facts: AdapterFacts, claim: Claim) -> tuple[int | None, int | None]:
    """(in, out) of a linear layer, as far as its factors or IA3's vectors tell."""
    shapes = {role: facts.header.tensors[name].shape for role, name in claim.tensors.items()}
    ins = [shapes[role][-1] for role in ("A", "l_in") if shapes.get(role)]
    outs = [shapes[role][0] for role in ("B", "l_out") if shapes.get(role)]
    return (ins[0] if ins else None), (outs[0] if outs else None)
