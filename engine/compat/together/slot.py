"""One slot that adapters are swapped through: what it must hold, the rank it must have, and its class."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.compat.together.group import name_of
from engine.format.names.keys import PREFIX, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.format.facts import AdapterFacts, ModuleFacts

_MOST_GROUPS = 2**20

SETTINGS = ("use_rslora", "lora_dropout", "alpha_pattern", "use_dora")
"""What peft 0.21.2 compares before a swap (`CONFIG_KEYS_TO_CHECK` in utils/hotswap.py)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """`target_rank` is the smallest rank of a slot that takes them all, 0 where none has modules; `load_first` names an
    adapter whose modules are all the others' too, None where none has. `classes` is each adapter's class: equal ones
    replace each other without a look, `hotswap_class` is the one they all have, None where they differ.
    """

    target_rank: int
    load_first: str | None
    classes: Mapping[str, str]
    ranks: Mapping[str, int]

    @property
    def hotswap_class(self) -> str | None:
        """The class of all of them, None where they have several."""
        found = set(self.classes.values())
        return found.pop() if len(found) == 1 else None

    def as_json(self) -> dict[str, object]:
        """The numbers for a report."""
        return {
            "class": self.hotswap_class,
            "target_rank": self.target_rank,
            "load_first": self.load_first,
            "ranks": dict(self.ranks),
        }


def slot_of(adapters: Sequence[AdapterFacts]) -> Slot:
    """The slot for these adapters, whether or not they can share one."""
    widest = max(adapters, key=lambda facts: len(lora_keys(facts)))
    holds_all = all(lora_keys(facts) <= lora_keys(widest) for facts in adapters)
    return Slot(
        target_rank=target_rank(module for facts in adapters for module in facts.modules),
        load_first=name_of(widest) if holds_all else None,
        classes={str(facts.path): class_digest(facts) for facts in adapters},
        ranks={str(facts.path): facts.rank or 0 for facts in adapters},
    )


def target_rank(modules: Iterable[ModuleFacts]) -> int:
    """The largest rank, rounded up to what the groups of every grouped convolution divide."""
    found = list(modules)
    largest = max((module.rank for module in found), default=0)
    step = math.lcm(*{groups(module) for module in found})
    # no slot of such a rank was ever made; damaged files can ask for any number
    return largest if step > _MOST_GROUPS else -(-largest // step) * step


def groups(module: ModuleFacts) -> int:
    """How many groups a convolution has, 1 for everything else."""
    a, b = module.a_shape, module.b_shape
    if not module.kind.startswith("conv") or len(b) < 2 or b[1] < 1:
        return 1
    return max(1, a[0] // b[1])


def lora_keys(facts: AdapterFacts) -> frozenset[str]:
    """The names of the tensors that PEFT swaps, without the prefix."""
    return frozenset(
        name.removeprefix(PREFIX)
        for name in facts.header.tensors
        if any(part.startswith("lora_") for part in name.split("."))
    )


def class_digest(facts: AdapterFacts) -> str:
    """A digest over everything that two adapters of one slot share: settings, modules with kinds and outer shapes,
    other tensors. Ranks and alphas are not in it.
    """
    lora = facts.config.lora
    factors = {key for module in facts.modules for key in (module.a_key, module.b_key)}
    document = {
        "type": facts.config.peft_type,
        "settings": None if lora is None else {key: _plain(getattr(lora, key)) for key in SETTINGS},
        "replication": None if lora is None else lora.layer_replication,
        "modules": sorted([one.name, one.kind, *one.b_shape[:1], *one.a_shape[1:]] for one in facts.modules),
        "others": sorted(
            [parse_key(name).module, parse_key(name).leaf, *info.shape]
            for name, info in facts.header.tensors.items()
            if name not in factors
        ),
    }
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
