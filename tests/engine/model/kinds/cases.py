"""What adapters put on every kind of layer: a model, the configurations of adapters for it, an input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig

from tests.engine.model.kinds import oracle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_DRAW = torch.Generator().manual_seed(9)
INPUTS = {
    oracle.Linears: torch.randn(4, 5, 12, generator=_DRAW),
    oracle.Embeddings: torch.randint(0, 20, (4, 6), generator=_DRAW),
    oracle.Line: torch.randn(4, 4, 9, generator=_DRAW),
    oracle.Plane: torch.randn(4, 3, 6, 7, generator=_DRAW),
    oracle.Space: torch.randn(4, 2, 3, 4, 3, generator=_DRAW),
}
LINES = ["one", "turned", "square", "last"]
TABLES = ["words", "scaled"]
CONVS = ["one", "groups", "last"]


def _lora(targets: Sequence[str], **changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(targets), **changes})


def _ada(targets: Sequence[str], rank: int) -> AdaLoraConfig:
    return AdaLoraConfig(init_r=rank, lora_alpha=5, target_modules=list(targets), total_step=10)


CASES = {
    "linear": (oracle.Linears, [_lora(LINES), _lora(LINES, r=2), _lora(["turned"], r=3)]),
    "linear rslora": (oracle.Linears, [_lora(LINES, use_rslora=True), _lora(LINES, r=6, use_rslora=True)]),
    "linear patterns": (
        oracle.Linears,
        [_lora(LINES, rank_pattern={"one": 7, "turned": 1}, alpha_pattern={"last": 3}), _lora(LINES)],
    ),
    "linear lora_bias": (oracle.Linears, [_lora(["one", "turned"], lora_bias=True), _lora(LINES)]),
    "linear bias lora_only": (oracle.Linears, [_lora(LINES, bias="lora_only"), _lora(LINES)]),
    "linear bias all": (oracle.Linears, [_lora(["last"], bias="all"), _lora(LINES)]),
    "linear dora": (
        oracle.Linears,
        [_lora(LINES, use_dora=True), _lora(LINES), _lora(LINES, use_dora=True, r=2)],
    ),
    "linear dora and bias": (
        oracle.Linears,
        [_lora(LINES, use_dora=True, bias="lora_only"), _lora(LINES, use_dora=True, r=2)],
    ),
    "linear ia3": (
        oracle.Linears,
        [
            IA3Config(target_modules=LINES, feedforward_modules=["turned", "last"]),
            IA3Config(target_modules=["one", "last"], feedforward_modules=["last"]),
        ],
    ),
    "linear adalora": (oracle.Linears, [_ada(LINES, 6), _ada(["one"], 3)]),
    "embedding": (oracle.Embeddings, [_lora([*TABLES, "last"]), _lora(["words"], r=2)]),
    "embedding dora": (oracle.Embeddings, [_lora(TABLES, use_dora=True), _lora(TABLES, r=2), _lora(TABLES, r=5)]),
    "tokens": (
        oracle.Embeddings,
        [
            _lora(["last"], trainable_token_indices={"words": [3, 7, 3], "scaled": [19]}),
            _lora(["last"], trainable_token_indices={"words": [1, 2]}),
        ],
    ),
    "conv1d": (oracle.Line, [_lora(CONVS, r=8), _lora(CONVS, r=4), _lora(["last"], r=3, lora_bias=True)]),
    "conv1d dora": (oracle.Line, [_lora(CONVS, r=4, use_dora=True), _lora(CONVS, r=8)]),
    "conv1d bias all": (oracle.Line, [_lora(["last"], bias="all"), _lora(CONVS)]),
    "conv2d": (oracle.Plane, [_lora(CONVS, r=8), _lora(CONVS, r=4, use_rslora=True), _lora(["one"], lora_bias=True)]),
    "conv2d dora": (oracle.Plane, [_lora(CONVS, use_dora=True, bias="all"), _lora(CONVS, r=8)]),
    "conv2d ia3": (
        oracle.Plane,
        [
            IA3Config(target_modules=CONVS, feedforward_modules=["groups"]),
            IA3Config(target_modules=["last"], feedforward_modules=[]),
        ],
    ),
    "conv2d adalora": (oracle.Plane, [_ada(["last"], 6), _ada(["last"], 3)]),
    "conv3d": (oracle.Space, [_lora(["one", "last"]), _lora(["one", "last"], r=2, use_dora=True)]),
}
