"""Modules on the meta device as a set's factors say that they are, where no base is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.names.keys import WRAPPER, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.format.facts import AdapterFacts, ModuleFacts

FIX = "adapters materialize … --as hotswap --base BASE"
_CONVOLUTIONS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}
_TOLD = {
    "bias": "which module has the bias",
    "tokens": "which modules share the embedding",
    "embedding": "whether the embedding is its own",
}


def standins(everyone: Iterable[AdapterFacts]) -> dict[str, nn.Module]:
    """A module by path for everything that the adapters change; of two that differ the first's.

    Raises RefusedError with everything of which only the base's own modules tell what it is.
    """
    modules: dict[str, nn.Module] = {}
    findings: list[Finding] = []
    for facts in everyone:
        findings += _untold(facts)
        for module in facts.modules:
            made = _made(module)
            if made is None:
                findings.append(needs_base(module.name, f"what kind of module it is ({module.kind})"))
            else:
                modules.setdefault(module.base_name, made)
        for name, role in facts.others.items():
            if role == "modules_to_save":
                _hold(modules, facts, name)
    if findings:
        raise RefusedError(findings)
    return modules


def needs_base(where: str, what: str) -> Finding:
    """What an image cannot be made without the base for."""
    return Finding("image-base", "error", f"{where}: only the base tells {what}", where=where, fix=FIX)


def _untold(facts: AdapterFacts) -> Iterator[Finding]:
    if facts.config.lora is None:
        yield needs_base(f"peft_type {facts.config.peft_type}", "what its tensors are on")
    for name, role in facts.others.items():
        if role in _TOLD:
            yield needs_base(name, _TOLD[role])


def _made(module: ModuleFacts) -> nn.Module | None:
    A, B = module.a_shape, module.b_shape
    if module.kind == "linear" and len(A) == len(B) == 2:
        return nn.Linear(A[1], B[0], bias=False, device="meta")
    if module.kind == "embedding" and len(A) == len(B) == 2:
        return nn.Embedding(A[1], B[0], device="meta")
    convolution = _CONVOLUTIONS.get(module.kind)
    groups = A[0] // B[1] if convolution and B[1] else 0
    if convolution is None or not groups or A[1] % groups or B[0] % groups:
        return None
    return convolution(A[1], B[0], A[2:], groups=groups, bias=False, device="meta")  # type: ignore[arg-type]  # as many as it has dimensions


def _hold(modules: dict[str, nn.Module], facts: AdapterFacts, name: str) -> None:
    """Let the stand-in of a saved module have the tensor `name`."""
    key = parse_key(name)
    path = ".".join(component for component in key.module.split(".") if component not in (WRAPPER, "token_adapter"))
    info = facts.header.tensors[name]
    module = modules.setdefault(path, nn.Module())
    if getattr(module, key.leaf, None) is not None:
        return
    tensor = torch.empty(info.shape, device="meta")
    if info.dtype.startswith(("F", "BF")):
        module.register_parameter(key.leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(key.leaf, tensor)
