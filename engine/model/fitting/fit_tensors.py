"""Does what an adapter puts on single tensors fit a live model: target_parameters, attention blocks, full copies?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import nn

from engine.compat.finding import Finding
from engine.format.configs.patterns import Matcher
from engine.format.names.keys import WRAPPER, parse_key
from engine.model.fitting.part import Part
from engine.model.kinds.parameter import PARAMETER, widths
from engine.model.kinds.saved import SAVED
from engine.model.memory.places import resident
from engine.model.sites.seat import own_forward
from engine.model.sites.siting import is_called_by_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.format.facts import AdapterFacts, ModuleFacts

_COPIES = ("modules_to_save", "embedding")
_OUT_PROJ = 2
"""How often PEFT 0.21.2 adds ΔW to an attention block's out_proj, in its forward and its merge: training saw that."""
_BETWEEN = (WRAPPER, "token_adapter")
_STRAY = ("modules_to_save", "original_module")


@dataclass(slots=True)
class Claims:
    """What of an adapter lies on single tensors: the parts, what is wrong, and the modules and tensors it explains."""

    parts: list[Part] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    tensors: set[str] = field(default_factory=set)

    def take(self, found: Part | Finding) -> None:
        """Keep what was found in its place."""
        if isinstance(found, Part):
            self.parts.append(found)
        else:
            self.findings.append(found)


def claim_tensors(facts: AdapterFacts, modules: Mapping[str, nn.Module]) -> Claims:
    """The parts on single tensors. Reads the adapter's file only where it repeats the base's embeddings."""
    claims = Claims()
    nested: defaultdict[str, list[ModuleFacts]] = defaultdict(list)
    for module in facts.modules:
        there = modules.get(module.base_name)
        if module.kind == "parameter":
            nested[module.base_name].append(module)
        elif isinstance(there, nn.MultiheadAttention):
            claims.take(_factors(module, "in_proj_weight", module.scaling, modules))
        elif is_called_by_parent(module.base_name, modules):
            claims.take(_factors(module, "weight", _OUT_PROJ * module.scaling, modules))
        else:
            continue
        claims.modules.add(module.name)
    for path, group in nested.items():
        for found in _parameters(path, group, facts, modules):
            claims.take(found)
    for name, role in facts.others.items():
        if role in _COPIES:
            claims.tensors.add(name)
            for found in _copy(name, role, facts, modules):
                claims.take(found)
    return claims


def _parameters(
    path: str, group: Sequence[ModuleFacts], facts: AdapterFacts, modules: Mapping[str, nn.Module]
) -> Iterator[Part | Finding]:
    """PEFT nests the wrappers of one module's parameters: the first that the module registered lies innermost."""
    there = modules.get(path)
    if there is None:
        yield Finding("base-module-absent", "error", f"{path}: the model has no such module", where=path)
        return
    lora = facts.config.lora
    targets = tuple(lora.target_parameters or ()) if lora else ()
    names = [name for name, _ in there.named_parameters(recurse=False) if _is_target(f"{path}.{name}", targets)]
    if len(names) != len(group):
        message = (
            f"{path}: target_parameters name {len(names)} of its parameters {names}, found factors for {len(group)}"
        )
        yield Finding("base-module-absent", "error", message, where=path)
        return
    matcher = Matcher(lora) if lora else None
    for module, name in zip(sorted(group, key=lambda one: -one.name.count(WRAPPER)), names, strict=True):
        scaling = module.scaling
        if matcher:
            rank, alpha = matcher.effective(f"{path}.{name}")
            scaling = alpha / (rank**0.5 if matcher.lora.use_rslora else rank)
        yield _factors(module, name, scaling, modules)


def _is_target(key: str, targets: Sequence[str]) -> bool:
    return any(key == target or key.endswith(f".{target}") for target in targets)


def _factors(module: ModuleFacts, leaf: str, scaling: float, modules: Mapping[str, nn.Module]) -> Part | Finding:
    path = f"{module.base_name}.{leaf}"
    owner = modules[module.base_name]
    tensor = getattr(owner, leaf, None)
    if tensor is None or tensor.dim() not in (2, 3) or not tensor.dtype.is_floating_point:
        message = f"{path}: expected a parameter of 2 or 3 dimensions of plain numbers, found {_described(tensor)}"
        return Finding("own-kind", "error", message, where=path)
    experts, fan_in, fan_out = widths(owner, leaf)
    many = max(experts, 1)
    rank = module.a_shape[0] // many
    expected = ((rank * many, fan_in), (fan_out, rank * many))
    if (module.a_shape, module.b_shape) != expected or not rank:
        found = f"found {module.a_shape} and {module.b_shape}"
        message = f"{path}: expected factors of {expected[0]} and {expected[1]}, {found}"
        return Finding("base-shape", "error", message, where=path)
    if module.extras:
        return Finding("own-part", "error", f"{path}: cannot run {', '.join(module.extras)} on a parameter", where=path)
    return callable_part(
        Part(path, PARAMETER.name, rank, scaling, owner, {"A": module.a_key, "B": module.b_key}, leaf), modules
    )


def _copy(name: str, role: str, facts: AdapterFacts, modules: Mapping[str, nn.Module]) -> Iterator[Part | Finding]:
    key = parse_key(name)
    components = [component for component in key.module.split(".") if component not in _BETWEEN]
    if components[-1:] and components[-1] in _STRAY:
        return  # PEFT repeats the biases of a saved module under its own names; the module's copy has them too
    path = ".".join(components)
    place = f"{path}.{key.leaf}"
    owner = modules.get(path)
    tensor = getattr(owner, key.leaf, None)
    if owner is None or not isinstance(tensor, torch.Tensor):
        yield Finding("base-module-absent", "error", f"{place}: the model has no such tensor", where=name)
        return
    shape = facts.header.tensors[name].shape
    if shape != tuple(tensor.shape):
        message = f"{place}: expected {tuple(tensor.shape)}, found {shape}"
        fix = f"model.resize_token_embeddings({shape[0]})" if role == "embedding" and len(shape) == 2 else None
        yield Finding("base-shape", "error", message, where=name, fix=fix)
    elif key.leaf not in owner._buffers and not tensor.dtype.is_floating_point:  # noqa: SLF001 - torch has no public way to tell
        yield Finding("own-kind", "error", f"{place}: the base's tensor is quantised ({tensor.dtype})", where=name)
    elif role != "embedding" or not _is_base(facts, name, resident(owner, key.leaf)):
        yield callable_part(Part(place, SAVED.name, 0, 1.0, owner, {"copy": name}, key.leaf), modules)


def _is_base(facts: AdapterFacts, name: str, tensor: torch.Tensor) -> bool:
    """Whether the file only repeats the base's numbers, as PEFT writes them for every targeted embedding."""
    with safe_open(facts.weights, framework="pt") as file:
        return torch.equal(file.get_tensor(name).to(tensor.device, tensor.dtype), tensor)


def callable_part(part: Part, modules: Mapping[str, nn.Module]) -> Part | Finding:
    """Refuse where other code's forward stands on the module: it would compute with the module's own tensors."""
    owner = part.path.removesuffix(f".{part.leaf}")
    if is_called_by_parent(owner, modules):
        owner = owner.rpartition(".")[0]
    if own_forward(modules[owner]) is None:
        message = f"{owner}: other code put its own forward on the module, which cannot run with another {part.leaf}"
        return Finding("own-kind", "error", message, where=part.path)
    return part


def _described(tensor: object) -> str:
    if not isinstance(tensor, torch.Tensor):
        return "none"
    return f"{tensor.dim()} dimensions of {str(tensor.dtype).removeprefix('torch.')}"
