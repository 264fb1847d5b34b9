"""The smallest base and adapter that have all a folder needs, written by safetensors itself."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.materialize import Request, Source

WIDTH, ROWS = 16, 24
LINEARS = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qkvo"]
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_size": WIDTH}


def tensors(seed=0, dtype=torch.bfloat16):
    """Two layers of four linears, an embedding and a norm, in the order of a model."""
    torch.manual_seed(seed)
    linears = {f"{name}.weight": torch.randn(WIDTH, WIDTH) for name in LINEARS}
    every = {"model.embed_tokens.weight": torch.randn(ROWS, WIDTH), **linears, "model.norm.weight": torch.ones(WIDTH)}
    return {name: tensor.to(dtype) for name, tensor in every.items()}


def make_base(folder, *, sharded=True, config=CONFIG, seed=0, dtype=torch.bfloat16):
    """A base in two shards, or in one file."""
    folder.mkdir(parents=True)
    every = tensors(seed, dtype)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if not sharded:
        save_file(every, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = list(every)
    weight_map = {}
    for number, some in enumerate((names[:5], names[5:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: every[name] for name in some}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def make_adapter(folder, *, seed=1, scale=1.0, linears=LINEARS[:6], width=WIDTH):
    """Rank 2 on six of the eight linears."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    factors = {}
    for name in linears:
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, width)
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(width, 2) * scale
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def request(folder, **options):
    """For a sharded base and an adapter made in `folder` where they are missing; shards of a few tensors."""
    base, adapter = folder / "base", folder / "adapter"
    if not base.exists():
        make_base(base)
        make_adapter(adapter)
    return Request(base=base, sources=(Source(adapter, name="team/sql@1"),), **{"shard_size": 2100, **options})


def contents(folder):
    """Every file below by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
