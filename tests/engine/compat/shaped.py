"""Adapters and bases that are shapes alone: what arithmetic needs, without files."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from engine.format.adapter import describe
from engine.format.configs.config import parse_config
from engine.format.facts import BaseFacts
from engine.format.files.tensors import Header, TensorInfo

# Llama-3-8B: (out, in) of every projection of a layer, 32 layers, vocabulary 128,256
LLAMA = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def llama_base(*, layers=32, **fields):
    parameters = {f"layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in LLAMA.items()}
    parameters |= {f"layers.{n}.input_layernorm.weight": (4096,) for n in range(layers)}
    parameters |= {"embed_tokens.weight": (128256, 4096), "lm_head.weight": (128256, 4096), "norm.weight": (4096,)}
    return BaseFacts("sha256:0", parameters, **{"architecture": "LlamaForCausalLM", "dtype": "bfloat16", **fields})


def llama_modules(*names, layers=32):
    """{path: (out, in)} of these projections in every layer, all seven without names."""
    wanted = {name: shape for name, shape in LLAMA.items() if not names or name.rpartition(".")[2] in names}
    return {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in wanted.items()}


def facts_of(modules, r=16, *, dtype="F32", ranks=None, **config):
    """An adapter of rank r over `modules`; `ranks` are other ranks by module path."""
    size = {"F32": 4, "BF16": 2}[dtype]
    tensors = {}
    for name, (outputs, inputs) in modules.items():
        rank = (ranks or {}).get(name, r)
        for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            key = f"base_model.model.{name}.lora_{half}.weight"
            tensors[key] = TensorInfo(key, dtype, shape, 0, prod(shape) * size)
    document = {
        "peft_type": "LORA",
        "base_model_name_or_path": "meta/llama",
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        **config,
    }
    parsed = parse_config(json.dumps(document).encode())
    return describe(parsed, Header(tensors, 0, 0), config_path=Path("c.json"), weights_path=Path("w.safetensors"))
