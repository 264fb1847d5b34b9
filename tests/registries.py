"""Whole registries for tests: a home, a database, and small adapters with known content."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from registry.api import Registry
from tests.factories import make_settings

if TYPE_CHECKING:
    from pathlib import Path

MODULES = {"model.layers.0.self_attn.q_proj": (4, 6), "model.layers.0.mlp.up_proj": (4, 8)}
BASE_TENSORS = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.self_attn.q_proj.weight": (6, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
}


def open_registry(home: Path, database_url: str | None = None, *, store_url: str | None = None) -> Registry:
    """A registry at `home`, its catalog and blobs there or at the URLs."""
    url = None if database_url is None or database_url.startswith("sqlite") else database_url
    return Registry(make_settings(home, database_url=url, store_url=store_url, actor="tester"))


def factors(seed: int, rank: int = 2) -> dict[str, np.ndarray]:
    """A and B of both modules, normal, by seed."""
    draw = np.random.default_rng(seed).standard_normal
    found = {}
    for name, (inputs, outputs) in MODULES.items():
        found[f"base_model.model.{name}.lora_A.weight"] = draw((rank, inputs)).astype(np.float32)
        found[f"base_model.model.{name}.lora_B.weight"] = draw((outputs, rank)).astype(np.float32)
    return found


def make_adapter(folder: Path, seed: int = 0, *, rank: int = 2, tensors: dict | None = None, **config: object) -> Path:
    """An adapter folder as PEFT writes it: `config` overrides base team/base and alpha 2·rank."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "peft_type": "LORA",
        "base_model_name_or_path": "team/base",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "up_proj"],
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(document))
    content = factors(seed, rank) if tensors is None else tensors
    save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def make_base(folder: Path, seed: int = 0) -> Path:
    """A base that `make_adapter` fits."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1000 + seed).standard_normal
    tensors = {name: draw(shape).astype(np.float32) for name, shape in BASE_TENSORS.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder
