"""The one table of rewrites: what each changes, and the findings that it clears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.convert.rewrite.downlevel import down_level, trained_initialisation
from engine.convert.rewrite.initial import without_initial
from engine.convert.rewrite.names import peft_names, with_prefix
from engine.convert.rewrite.scales import Wanted, uniform
from engine.convert.rewrite.targets import explicit_targets, spelled_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.compat.engines.table import EngineTarget
    from engine.convert.rewrite.draft import Draft
    from engine.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Request:
    """For whom an adapter is rewritten, the least common rank, and the adapter as it was before training."""

    target: EngineTarget
    rank: int | None = None
    initial: AdapterFacts | None = None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One row. `clears` are rule ids; `function` is pure, and raises RefusedError where it cannot keep the function."""

    id: str
    summary: str
    clears: frozenset[str]
    function: Callable[[Draft, Request], Draft]


_UNREAD_ALPHA = frozenset({"diffusers"})
_WHOLE_ALPHA = frozenset({"ollama"})


def _names(draft: Draft, _request: Request) -> Draft:
    return peft_names(draft)


def _initial(draft: Draft, request: Request) -> Draft:
    return without_initial(draft, request.initial)


def _scales(draft: Draft, request: Request) -> Draft:
    name = request.target.engine.name
    return uniform(draft, Wanted(request.rank, whole=name in _WHOLE_ALPHA, unit=name in _UNREAD_ALPHA))


def _targets(draft: Draft, _request: Request) -> Draft:
    return explicit_targets(draft)


def _fields(draft: Draft, _request: Request) -> Draft:
    return spelled_out(draft)


def _initialisation(draft: Draft, _request: Request) -> Draft:
    return trained_initialisation(draft)


def _down_level(draft: Draft, request: Request) -> Draft:
    return down_level(draft, request.target)


def _prefix(draft: Draft, request: Request) -> Draft:
    return with_prefix(draft, request.target.text("prefix"))


REWRITES: tuple[Rewrite, ...] = (
    Rewrite(
        "names",
        "Tensors get the names that PEFT writes.",
        frozenset(
            {
                "tensor-prefix",
                "tensor-unmatched",
                "pair-incomplete",
                "vllm-tensor-name",
                "llamacpp-tensors",
                "ollama-tensors",
            }
        ),
        _names,
    ),
    Rewrite(
        "initial",
        "The factors that training began with are subtracted, at twice the rank.",
        frozenset(
            {
                "vllm-initialisation",
                "vllm-initialisation-ignored",
                "sglang-initialisation",
                "diffusers-initialisation",
                "llamacpp-initialisation",
                "ollama-initialisation",
                "own-initialisation",
            }
        ),
        _initial,
    ),
    Rewrite(
        "scales",
        "rsLoRA, rank_pattern and alpha_pattern go into lora_alpha and lora_B, ranks are padded with zeros.",
        frozenset(
            {
                "vllm-patterns",
                "sglang-scaling",
                "sglang-one-rank",
                "diffusers-scaling",
                "diffusers-first-alpha",
                "llamacpp-scaling",
                "ollama-scaling",
                "ollama-alpha",
            }
        ),
        _scales,
    ),
    Rewrite(
        "targets",
        "target_modules lists the adapted modules by name.",
        frozenset({"sglang-targets"}),
        _targets,
    ),
    Rewrite(
        "fields",
        "r, lora_alpha and target_modules are said.",
        frozenset({"vllm-fields", "sglang-fields", "llamacpp-fields"}),
        _fields,
    ),
    Rewrite(
        "initialisation",
        "init_lora_weights is true.",
        frozenset({"peft-initialisation"}),
        _initialisation,
    ),
    Rewrite(
        "down-level",
        "Keys that an older PEFT does not know, and that say nothing, are left out.",
        frozenset({"peft-keys"}),
        _down_level,
    ),
    Rewrite(
        "prefix",
        "Tensor names begin with the prefix that the loader looks for.",
        frozenset({"diffusers-prefix"}),
        _prefix,
    ),
)


BY_WRITING = frozenset({"diffusers-metadata"})
"""Findings that are gone whatever is rewritten: the header of the new file holds no settings."""


def describe_rewrites() -> str:
    """The table as Markdown; docs/rewrites.md holds this text."""
    rows = [
        f"| `{row.id}` | {row.summary} | {', '.join(f'`{rule}`' for rule in sorted(row.clears))} |" for row in REWRITES
    ]
    header = ["| rewrite | what it does | findings that it clears |", "|---|---|---|"]
    return "\n".join([*header, *rows]) + "\n"
