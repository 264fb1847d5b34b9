"""Tiny live models and adapters that PEFT itself made, for the tests of the engine."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama of two layers with weights from `seed`, in eval mode."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **changes})).eval()


def lora_folder(folder: Path, model: torch.nn.Module, *, seed: int = 1, **config: Any) -> Path:
    """An adapter for this model as PEFT saves it, every factor random: in `folder`. The model is left as it was."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                with torch.no_grad():
                    parameter.normal_(0.0, 0.3, generator=generator)
            meant = any(part in name for part in ("lora_", "modules_to_save", "bias", "trainable_tokens"))
            assert meant or parameter.requires_grad is False
        wrapped.save_pretrained(folder)
    return folder
