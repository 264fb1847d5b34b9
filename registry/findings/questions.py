"""What is asked of adapters, parsed: engines by name, and the label under which an answer is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.compat.engines.target import parse_target

if TYPE_CHECKING:
    from engine.compat.engines.table import EngineTarget


@dataclass(frozen=True, slots=True)
class ForEngine:
    """A serving engine as asked for. `label` is `vllm`, or `vllm@0.32:max_lora_rank=64` with what was given."""

    label: str
    target: EngineTarget


def parse_engine(text: str) -> ForEngine:
    """`ENGINE[@VERSION][:limit=value]…`; engine.errors.OptionError for anything else."""
    target = parse_target(text)
    head, *limits = text.split(":")
    version = f"@{target.version}" if "@" in head else ""
    given = sorted(one for several in limits for one in several.split(","))
    return ForEngine(f"{target.engine.name}{version}{''.join(f':{one}' for one in given)}", target)
