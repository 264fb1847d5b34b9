"""A two-module adapter and its base, small enough to damage by hand."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file

from engine.format.adapter import read_adapter
from engine.format.base import read_base

P = "base_model.model.model.layers.0."

CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "team/base",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "inference_mode": True,
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "up_proj"],
}


def tensors():
    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    return {
        f"{P}self_attn.q_proj.lora_A.weight": draw(2, 4),
        f"{P}self_attn.q_proj.lora_B.weight": draw(6, 2),
        f"{P}mlp.up_proj.lora_A.weight": draw(2, 4),
        f"{P}mlp.up_proj.lora_B.weight": draw(8, 2),
    }


BASE = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.self_attn.q_proj.weight": (6, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (10, 4),
}


def write_adapter(folder, *, config=None, weights=None):
    """`config` is an object or a text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(CONFIG if config is None else config)
    (folder / "adapter_config.json").write_text(text)
    save_file(
        tensors() if weights is None else weights, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    return folder


def adapter(folder, *, config=None, weights=None):
    return read_adapter(write_adapter(folder, config=config, weights=weights))


def base(folder, shapes=None, **config):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    stored = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in (shapes or BASE).items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return read_base(folder)
