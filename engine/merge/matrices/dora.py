"""DoRA parents: their true ΔW, which only the base model's weights tell.

ΔW = m/‖W + s·B·A‖·(W + s·B·A) - W with a norm and a magnitude m for every row of the weight seen as (out, in), kernels
flat (an embedding as (dim, vocabulary)), as peft merges it. It is of full rank, so a parent becomes a dense matrix: one
module at a time, in the rows of a factor whose partner is the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.compat.together.dora import RULE, dora_parents, dora_refusal
from engine.compat.together.refusals import refusal
from engine.format.base import weight_files
from engine.format.files.dtypes import READABLE
from engine.format.files.header import read_header
from engine.format.files.tensorfile import TensorFile
from engine.format.names.canonical import canonical, canonical_names
from engine.format.names.keys import parse_key
from engine.merge.matrices.factors import TORCH_DTYPES
from engine.merge.matrices.parts import Part
from engine.merge.matrices.rows import row_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.format.files.tensors import Header, TensorInfo


@dataclass(frozen=True, slots=True)
class BaseTensor:
    """A tensor of the base's checkpoint and the file that holds it."""

    path: Path
    header: Header
    info: TensorInfo

    def read(self) -> Tensor:
        """A copy of the tensor. Raises HeaderError where the file is no longer the one whose header was read."""
        with TensorFile(self.path, self.header) as file:
            data = bytearray(file.whole(self.info))
        return torch.frombuffer(data, dtype=TORCH_DTYPES[self.info.dtype]).reshape(self.info.shape)


@dataclass(frozen=True, slots=True)
class DoraWeight:
    """What turns a DoRA module's factors into its ΔW: magnitude, and the base's weight, transposed where it is stored
    as (in, out).
    """

    magnitude: str
    tensor: BaseTensor
    transposed: bool

    def dense(self, part: Part, magnitude: Tensor, *, precise: bool) -> Part:
        """The true ΔW (m, n) as factors, one of them the identity: float32, or float64 where it shall be `precise`."""
        stored = self.tensor.read()
        W = stored.T if self.transposed else stored.flatten(1)
        dtype, device = torch.float64 if precise else torch.float32, part.B.device
        D = torch.empty(tuple(W.shape), dtype=dtype, device=device)
        A, m = part.A.double(), magnitude.double().flatten()
        for start, stop in row_blocks((W.shape[0], W.shape[1])):
            base = W[start:stop].to(device).double()
            moved = base + (part.scaling * part.B[start:stop].double()) @ A
            D[start:stop] = (m[start:stop] / moved.norm(dim=1))[:, None] * moved - base
        if D.shape[0] <= D.shape[1]:
            return Part(torch.eye(D.shape[0], dtype=dtype, device=device), D, 1.0)
        return Part(D, torch.eye(D.shape[1], dtype=dtype, device=device), 1.0)


def base_tensors(path: Path) -> Mapping[str, BaseTensor]:
    """The tensors of the base checkpoint at `path` (a file, or a folder, sharded or not) by canonical name.

    Reads headers only. Raises BaseError or HeaderError.
    """
    found: dict[str, BaseTensor] = {}
    for file, _ in weight_files(path):
        real = file.resolve()
        header = read_header(real)
        found |= {name: BaseTensor(real, header, info) for name, info in header.tensors.items()}
    names = canonical_names(found)
    return {names[name]: tensor for name, tensor in found.items()}


def dora_weights(
    parents: Sequence[AdapterFacts], base: Path | None, method: str, *, takes: bool
) -> tuple[dict[str, dict[str, DoraWeight]], list[Finding]]:
    """The weights of the DoRA modules, by adapter folder and module, and why there are none.

    `takes` says whether the method takes a ΔW of full rank. Raises what `base_tensors` does.
    """
    having = dora_parents(parents)
    if not having:
        return {}, []
    told = [dora_refusal(facts, method, with_base=base is not None, takes=takes) for facts in having]
    refused = [finding for finding in told if finding is not None]
    if refused or base is None:
        return {}, refused
    tensors = base_tensors(base)
    found: dict[str, dict[str, DoraWeight]] = {}
    for facts in having:
        for module in facts.modules:
            one = _weight(facts, module, tensors)
            if isinstance(one, str):
                refused.append(refusal(RULE, f"{facts.path.name} {one}", target=str(facts.path), where=module.name))
            else:
                found.setdefault(str(facts.path), {})[module.name] = one
    return found, refused


def _weight(facts: AdapterFacts, module: ModuleFacts, tensors: Mapping[str, BaseTensor]) -> DoraWeight | str:
    """The module's weight, or in words why there is none."""
    magnitude = next((key for key in module.extras if parse_key(key).role == "magnitude"), None)
    if magnitude is None:
        return f"has no magnitude vector for {module.name}"
    if module.kind in ("parameter", "unknown") or module.a_shape[0] != module.b_shape[1]:
        return f"rescales {module.name}, whose kind PEFT knows no DoRA of (a grouped convolution or a parameter)"
    name = canonical(f"{module.base_name}.weight")
    tensor = tensors.get(name)
    if tensor is None:
        return f"rescales {module.name}, and the base holds no tensor {name}"
    if tensor.info.dtype not in READABLE:
        return f"rescales {module.name}, whose weight in the base is {tensor.info.dtype}, no floating dtype"
    shape, fits = tensor.info.shape, orientations(facts, module)
    if shape not in fits:
        wanted = " or ".join(str(list(one)) for one in fits)
        return f"rescales {module.name}, whose weight in the base is {list(shape)}, expected {wanted}"
    rows = module.b_shape[0]
    if math.prod(facts.header.tensors[magnitude].shape) != rows:
        return f"has {math.prod(facts.header.tensors[magnitude].shape)} magnitudes for {module.name}, expected {rows}"
    if facts.header.tensors[magnitude].dtype not in READABLE:
        return f"has magnitudes of {facts.header.tensors[magnitude].dtype} for {module.name}, no floating dtype"
    return DoraWeight(magnitude, tensor, transposed=fits[shape])


def orientations(facts: AdapterFacts, module: ModuleFacts) -> dict[tuple[int, ...], bool]:
    """The shapes that the base's weight can have, and whether it then is (in, out).

    A square weight is what the config says: PEFT writes fan_in_fan_out where it met a transposed layer.
    """
    straight = (module.b_shape[0], *module.a_shape[1:])
    if module.kind == "embedding":
        return {straight[::-1]: True}
    if module.kind != "linear":
        return {straight: False}
    flag = facts.config.lora is not None and facts.config.lora.fan_in_fan_out
    return {straight[::-1]: True, straight: straight[0] == straight[1] and flag}
