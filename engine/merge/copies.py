"""Full copies of base tensors that travel in an adapter: modules_to_save and saved embeddings. No torch.

A trained copy (modules_to_save) of one parent is carried, of several refused: copies are no sums. An untrained copy,
which PEFT writes beside an adapted or resized embedding, is carried when every parent that has it has the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.merge.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts
    from engine.format.tensors import TensorInfo
    from engine.merge.refusals import Config

RULE = "merge-modules-to-save"


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor to be copied byte for byte from `path`, where it begins at byte `offset`."""

    info: TensorInfo
    path: Path
    offset: int

    def read(self) -> bytes:
        """The tensor's bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.info.size)


def gather(parents: Sequence[tuple[AdapterFacts, Config]]) -> tuple[list[Copy], list[str], list[Finding]]:
    """The copies the result carries, its modules_to_save, and why that cannot be."""
    trained = {facts.path: (facts, names) for facts, config in parents if (names := _trained(facts, config))}
    findings = []
    if len(trained) > 1:
        carriers = ", ".join(path.name for path in trained)
        findings.append(refusal(RULE, f"{carriers} each train full copies of modules (modules_to_save)"))
    copies: dict[str, Copy] = {}
    for facts, _ in parents:
        for copy in _copies(facts):
            first = copies.setdefault(copy.info.name, copy)
            if facts.path not in trained and not _same(first, copy):
                message = f"{copy.info.name} differs between {first.path.parent.name} and {facts.path.name}"
                findings.append(refusal(RULE, message, where=copy.info.name))
    saved = [name for facts, config in parents if facts.path in trained for name in config.get("modules_to_save") or ()]
    findings.extend(_collisions(parents, saved))
    return list(copies.values()), sorted(set(saved)), findings


def _trained(facts: AdapterFacts, config: Config) -> list[str]:
    return [
        name for name in facts.others if any(_inside(name, module) for module in config.get("modules_to_save") or ())
    ]


def _inside(tensor: str, module: str) -> bool:
    """Whether the tensor lies in a module whose name ends in `module`, PEFT's own rule (no dot needed before it)."""
    parts = tensor.split(".")
    return any(".".join(parts[:count]).endswith(module) for count in range(1, len(parts)))


def _copies(facts: AdapterFacts) -> Iterator[Copy]:
    tensors: Mapping[str, TensorInfo] = facts.header.tensors
    for name in facts.others:
        yield Copy(tensors[name], facts.weights, facts.header.data_offset + tensors[name].start)


def _same(one: Copy, other: Copy) -> bool:
    if one == other:
        return True
    alike = (one.info.dtype, one.info.shape) == (other.info.dtype, other.info.shape)
    return alike and one.read() == other.read()


def _collisions(parents: Iterable[tuple[AdapterFacts, Config]], saved: Iterable[str]) -> Iterator[Finding]:
    """One parent's LoRA below another's full copy: PEFT would load the copy and lose the factors."""
    for facts, _ in parents:
        for module in facts.modules:
            for name in saved:
                if _inside(f"{module.name}.weight", name):
                    message = f"{facts.path.name} adapts {module.name}, of which another parent saves a full copy"
                    yield refusal(RULE, message, where=module.name)
