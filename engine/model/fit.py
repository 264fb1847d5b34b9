"""Does an adapter fit a live model? Every part with its place, or every reason why not, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.keys import parse_key
from engine.model.fit_tensors import claim_tensors
from engine.model.kinds import KINDS
from engine.model.kinds.linear import widths
from engine.model.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.model.fit_tensors import Claims


def fit(facts: AdapterFacts, modules: Mapping[str, nn.Module]) -> tuple[Part, ...]:
    """The parts of the adapter on the modules of a model, by exact path.

    Raises RefusedError with a finding for everything that does not fit.
    """
    claims = claim_tensors(facts, modules)
    findings = [*_misfits(facts, claims), *claims.findings]
    parts: list[Part] = list(claims.parts)
    for module in facts.modules:
        if module.name in claims.modules:
            continue
        part = _part(module, modules)
        if isinstance(part, Finding):
            findings.append(part)
        else:
            parts.append(part)
    if findings:
        raise RefusedError(findings)
    return tuple(parts)


def _misfits(facts: AdapterFacts, claims: Claims) -> Iterator[Finding]:
    if facts.config.peft_type != "LORA":
        yield Finding("own-type", "error", f"peft_type: expected LORA, found {facts.config.peft_type}")
    for name in facts.unmatched:
        yield Finding("tensor-unmatched", "error", f"{name}: nothing in the config explains it", where=name)
    for name, present in facts.incomplete.items():
        yield Finding("pair-incomplete", "error", f"{name}: has only {', '.join(present)}", where=name)
    for name in sorted(facts.others.keys() - claims.tensors):
        yield Finding("own-part", "error", f"{name}: not run here yet", where=name)


def _part(module: ModuleFacts, modules: Mapping[str, nn.Module]) -> Part | Finding:
    path = module.base_name
    there = modules.get(path)
    if there is None:
        return Finding("base-module-absent", "error", f"{path}: the model has no such module", where=path)
    kind = next((kind for kind in KINDS.values() if kind.holds(there)), None)
    if kind is None:
        return Finding("own-kind", "error", f"{path}: a {type(there).__name__} is not run here", where=path)
    fan_in, fan_out = widths(there)
    expected = ((module.rank, fan_in), (fan_out, module.rank))
    if (module.a_shape, module.b_shape) != expected:
        message = (
            f"{path}: expected factors of {expected[0]} and {expected[1]}, found {module.a_shape} and {module.b_shape}"
        )
        return Finding("base-shape", "error", message, where=path)
    roles = {"A": module.a_key, "B": module.b_key}
    roles |= {parse_key(key).role: key for key in module.extras}
    return Part(path, kind.name, module.rank, module.scaling, roles)
