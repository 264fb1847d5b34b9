"""Adapter folders written with safetensors alone, and their ΔW in float64 numpy straight from the definition."""

import json
import math
import re

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."


def normal(seed, *shape, scale=0.3, dtype=torch.float32):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def linear(name, *, inputs, outputs, rank, seed, dtype=torch.float32):
    """The two tensors of a Linear or HF Conv1D."""
    return {
        f"{PREFIX}{name}.lora_A.weight": normal(seed, rank, inputs, dtype=dtype),
        f"{PREFIX}{name}.lora_B.weight": normal(seed + 1000, outputs, rank, dtype=dtype),
    }


def embedding(name, *, vocabulary, width, rank, seed, dtype=torch.float32):
    return {
        f"{PREFIX}{name}.lora_embedding_A": normal(seed, rank, vocabulary, dtype=dtype),
        f"{PREFIX}{name}.lora_embedding_B": normal(seed + 1000, width, rank, dtype=dtype),
    }


def conv(name, *, inputs, outputs, kernel, rank, seed, groups=1):
    return {
        f"{PREFIX}{name}.lora_A.weight": normal(seed, rank, inputs, *kernel),
        f"{PREFIX}{name}.lora_B.weight": normal(seed + 1000, outputs, rank // groups, *(1 for _ in kernel)),
    }


def write_adapter(folder, tensors, **config):
    """An adapter folder; `config` overrides r 4, lora_alpha 9 and targets of every module."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({re.sub(r"\.lora_.*", "", key.removeprefix(PREFIX)) for key in tensors if ".lora_" in key})
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 9, "target_modules": targets, **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def deltas(folder):
    """Module name to ΔW (rows, columns) in float64: scaling·B·A with kernels flat and groups written out.

    PEFT's rule for patterns: the first key that matches the end of the name at a dot.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {key: value.double().numpy() for key, value in load_file(folder / "adapter_model.safetensors").items()}
    found = {}
    for key, factor in tensors.items():
        if not re.search(r"\.lora_(embedding_)?A", key):
            continue
        name = re.sub(r"\.lora_.*", "", key.removeprefix(PREFIX))
        A = factor.reshape(factor.shape[0], -1)
        B = tensors[key.replace("_A", "_B")]
        B = B.reshape(B.shape[0], -1)
        groups = A.shape[0] // B.shape[1]
        blocks = [b @ a for b, a in zip(np.split(B, groups), np.split(A, groups), strict=True)]
        found[name] = _scaling(config, name) * np.concatenate(blocks)
    return found


def pairs(folder):
    """Module name to (scaling·B, A), (rows, r) and (r, columns) in float64, of one group."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {key: value.double().flatten(1) for key, value in load_file(folder / "adapter_model.safetensors").items()}
    found = {}
    for key in (key for key in tensors if re.search(r"\.lora_(embedding_)?A", key)):
        name = re.sub(r"\.lora_.*", "", key.removeprefix(PREFIX))
        B, A = tensors[key.replace("_A", "_B")].numpy(), tensors[key].numpy()
        found[name] = _scaling(config, name) * B, A
    return found


def _scaling(config, name):
    rank, alpha = (
        _by_pattern(config, "rank_pattern", "r", name),
        _by_pattern(config, "alpha_pattern", "lora_alpha", name),
    )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(config, patterns, default, name):
    for key, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return config[default]


def weighted(folders, weights):
    """Σ w_i·ΔW_i per module, over the modules that any parent has."""
    total = {}
    for folder, weight in zip(folders, weights, strict=True):
        for name, delta in deltas(folder).items():
            total[name] = total.get(name, 0) + weight * delta
    return total


def best(matrix, rank):
    """The best rank-k approximation by numpy's dense SVD."""
    U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def distance(found, expected):
    """Relative Frobenius distance, absolute where zero is expected."""
    return float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))
