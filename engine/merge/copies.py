"""Full copies of base tensors that travel in an adapter: modules_to_save and saved embeddings.

A trained copy (modules_to_save) of one parent is carried, of several refused: copies are no sums. An untrained copy,
which PEFT writes beside an adapted or resized embedding, is carried when every parent that has it has the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.format.keys import PREFIX, WRAPPER, parse_key
from engine.format.tensorfile import TensorFile
from engine.merge.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts
    from engine.format.tensors import Header, TensorInfo

RULE = "merge-modules-to-save"

CARRIED = ("modules_to_save", "embedding")
"""Roles of the tensors that are copied; every other role that is no factor has its own refusal."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor to be copied byte for byte: `origin` in the file at `path`; `info` has its new name."""

    info: TensorInfo
    origin: TensorInfo
    path: Path
    header: Header

    def blocks(self) -> Iterator[memoryview]:
        """The tensor's bytes, a block at a time, each overwritten by the next: a head may be larger than memory.

        Raises HeaderError where the file is no longer the one whose header was read.
        """
        with TensorFile(self.path, self.header) as file:
            yield from file.blocks(self.origin)


def gather(parents: Sequence[AdapterFacts]) -> tuple[list[Copy], list[str], list[Finding]]:
    """The copies the result carries, its modules_to_save, and why that cannot be."""
    carriers = [facts for facts in parents if "modules_to_save" in facts.others.values()]
    findings = []
    if len(carriers) > 1:
        names = ", ".join(facts.path.name for facts in carriers)
        findings.append(refusal(RULE, f"{names} each train full copies of modules (modules_to_save)"))
    copies: dict[str, Copy] = {}
    adapted = frozenset(module.name for facts in parents for module in facts.modules)
    for copy in (copy for facts in parents for copy in _copies(facts, adapted)):
        first = copies.setdefault(copy.info.name, copy)
        if len(carriers) < 2 and not _same(first, copy):
            message = f"{copy.info.name} differs between {first.path.parent.name} and {copy.path.parent.name}"
            findings.append(refusal(RULE, message, where=copy.info.name))
    saved = sorted({module for facts in carriers for module in _saved_modules(facts)})
    findings.extend(_collisions(parents, saved))
    return list(copies.values()), saved, findings


def _saved_modules(facts: AdapterFacts) -> Iterator[str]:
    """The entries of modules_to_save, and the modules of heads that PEFT adds for a task without saying so."""
    entries = (facts.config.lora.modules_to_save if facts.config.lora else None) or ()
    yield from entries
    for name, role in facts.others.items():
        if role == "modules_to_save" and not any(_inside(name, entry) for entry in entries):
            yield parse_key(name).module


def _inside(tensor: str, module: str) -> bool:
    """Whether the tensor lies in a module whose name ends in `module`, PEFT's own rule (no dot needed before it)."""
    parts = tensor.split(".")
    return any(".".join(parts[:count]).endswith(module) for count in range(1, len(parts)))


def _copies(facts: AdapterFacts, adapted: Container[str]) -> Iterator[Copy]:
    tensors: Mapping[str, TensorInfo] = facts.header.tensors
    for name, role in facts.others.items():
        if role in CARRIED:
            info = replace(tensors[name], name=_name_in_result(name, role, adapted))
            yield Copy(info, tensors[name], facts.weights, facts.header)


def _name_in_result(name: str, role: str, adapted: Container[str]) -> str:
    """PEFT's name of the copy: an embedding lies under the wrapper where any parent, and so the result, adapts it."""
    if role != "embedding":
        return PREFIX + name.removeprefix(PREFIX)
    key = parse_key(name)
    owner = f"{key.module}.{WRAPPER}" if key.module in adapted else key.module
    return f"{PREFIX}{owner}.{key.leaf}"


def _same(one: Copy, other: Copy) -> bool:
    if one is other:
        return True
    alike = (one.info.dtype, one.info.shape) == (other.info.dtype, other.info.shape)
    return alike and all(left == right for left, right in zip(one.blocks(), other.blocks(), strict=True))


def _collisions(parents: Iterable[AdapterFacts], saved: Iterable[str]) -> Iterator[Finding]:
    """One parent's LoRA below another's full copy: PEFT would load the copy and lose the factors."""
    for facts in parents:
        for module in facts.modules:
            for name in saved:
                if _inside(f"{module.name}.weight", name):
                    message = f"{facts.path.name} adapts {module.name}, of which another parent saves a full copy"
                    yield refusal(RULE, message, where=module.name)
