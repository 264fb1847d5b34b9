"""Does an adapter fit a live model? Every part with its place, or every reason why not, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.files.dtypes import READABLE
from engine.model.fitting.claims import claims_of, completed
from engine.model.fitting.fit_tensors import callable_part, claim_tensors
from engine.model.fitting.part import Part
from engine.model.fitting.shortcut import passed_over
from engine.model.fitting.unsupported import unsupported
from engine.model.kinds import KINDS
from engine.model.kinds.saved import SAVED
from engine.model.sites.siting import is_called_by_parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import nn

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.claims import Claim


LARGEST = float(np.finfo(np.float32).max)
"""The largest scale: a slot's scales are float32."""


def fit(facts: AdapterFacts, modules: Mapping[str, nn.Module]) -> tuple[Part, ...]:
    """The parts of the adapter on the modules of a model, by exact path.

    Raises RefusedError with a finding for everything that does not fit.
    """
    findings = list(unsupported(facts))
    facts = completed(facts)
    tensors = claim_tensors(facts, modules)
    claims, unclaimed = claims_of(facts, modules, tensors)
    findings += [*tensors.findings, *unclaimed]
    parts: list[Part] = list(tensors.parts)
    for path, claim in claims.items():
        part = _part(path, claim, modules)
        if isinstance(part, Finding):
            findings.append(part)
        else:
            parts.append(part)
            findings += _misfits(part, facts)
    findings += [_too_large(part) for part in parts if not abs(part.scaling) <= LARGEST]
    findings += passed_over(parts, modules)
    if findings:
        raise RefusedError(findings)
    return tuple(parts)


def _too_large(part: Part) -> Finding:
    message = f"{part.path}: scale {part.scaling:g} is more than float32 holds"
    return Finding("value-nonfinite", "error", message, where=part.path)


def _part(path: str, claim: Claim, modules: Mapping[str, nn.Module]) -> Part | Finding:
    module = modules.get(path)
    if module is None:
        return Finding("base-module-absent", "error", f"{path}: the model has no such module", where=path)
    kind = next((kind for kind in KINDS.values() if kind.holds(module)), None)
    if claim.tensors.keys() == {"bias"} and (kind is None or is_called_by_parent(path, modules)):
        copy = {"copy": claim.tensors["bias"]}
        return callable_part(Part(f"{path}.bias", SAVED.name, 0, 1.0, module, copy, "bias"), modules)
    if kind is None:
        named = type(module).__name__
        return Finding("own-kind", "error", f"{path}: a {named} is not run here with {claim}", where=path)
    return Part(path, kind.name, claim.rank, claim.scaling, module, claim.tensors, tokens=claim.tokens)


def _misfits(part: Part, facts: AdapterFacts) -> Iterator[Finding]:
    """What is wrong with the shapes, dtypes and roles of a part's tensors."""
    expected = KINDS[part.kind].expects(part)
    for role, name in part.tensors.items():
        found = facts.header.tensors[name]
        if role not in expected:
            message = f"{name}: a {type(part.module).__name__} takes no {role}, expected {', '.join(expected)}"
            yield Finding("own-role", "error", message, where=name)
        elif found.shape != expected[role]:
            message = f"{name}: expected {list(expected[role])}, found {list(found.shape)}"
            yield Finding("base-shape", "error", message, where=name)
        if found.dtype not in READABLE:
            yield Finding("own-dtype", "error", f"{name}: expected a floating dtype, found {found.dtype}", where=name)


def refuse_ranks(parts: Iterable[Part], most: int | None) -> None:
    """Raise RefusedError for every part whose rank is larger than there is room for."""
    message = "{}: rank {}, this runtime has room for {} (target_rank)"
    found = [
        Finding("rank-over-target", "error", message.format(part.path, part.rank, most), where=part.path)
        for part in parts
        if most is not None and part.rank > most
    ]
    if found:
        raise RefusedError(found)
