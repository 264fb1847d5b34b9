"""Adapters of every layer kind, made by the reference library: (base folder or None, adapter folder)."""

from __future__ import annotations

import warnings

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    KasaConfig,
    LoHaConfig,
    LoraConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.engine.tiny import llama


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.lin0 = nn.Linear(12, 16)
        self.conv = Conv1D(10, 16)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        return self.head(self.conv(self.lin0(self.emb(x))))


class Convs(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(4, 6, 3)
        self.two = nn.Conv2d(4, 8, (3, 5))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.three = nn.Conv3d(4, 6, 2)

    def forward(self, x):
        return x


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(12, 2)

    def forward(self, x):
        return self.mha(x, x, x)[0]


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.zeros(3, 10, 8))
        self.down = nn.Parameter(torch.zeros(3, 8, 10))
        self.flat = nn.Parameter(torch.zeros(6, 8))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = Experts()

    def forward(self, x):
        return x


def tied_llama():
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    model.config.name_or_path = ""
    return model


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=16))


def resized_llama():
    model = llama()
    model.resize_token_embeddings(70, mean_resizing=False)
    return model


# name -> (model, the model whose checkpoint is the base, config)
CASES = {
    "linear": (Mlp, Mlp, LoraConfig(r=4, lora_alpha=9, target_modules=["lin0"])),
    "conv1d-of-transformers": (Mlp, None, LoraConfig(r=4, target_modules=["conv"])),
    "embedding": (Mlp, Mlp, LoraConfig(r=4, target_modules=["emb"])),
    "convolutions": (Convs, Convs, LoraConfig(r=8, target_modules=["one", "two", "grouped", "three"])),
    "attention": (Attention, Attention, LoraConfig(r=4, target_modules=["mha"])),
    "dora": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0", "emb"], use_dora=True)),
    "dora-convolutions": (Convs, Convs, LoraConfig(r=8, target_modules=["one", "two", "three"], use_dora=True)),
    "rslora": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], use_rslora=True)),
    "patterns": (
        llama,
        llama,
        LoraConfig(
            r=4, target_modules=["q_proj", "v_proj", "up_proj"],
            rank_pattern={"q_proj": 6, r"layers\.1\..*up_proj": 2}, alpha_pattern={"v_proj": 3},
        ),
    ),
    "regex": (llama, llama, LoraConfig(r=4, target_modules=r".*layers\.[01]\.self_attn\.(q|k)_proj")),
    "layers": (llama, llama, LoraConfig(r=4, target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")),
    "all-linear": (llama, llama, LoraConfig(r=4, target_modules="all-linear")),
    "lora-bias": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], lora_bias=True)),
    "bias-all": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], bias="all")),
    "bias-lora-only": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], bias="lora_only")),
    "modules-to-save": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], modules_to_save=["head"])),
    "tokens": (llama, llama, LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[1, 5])),
    "tokens-and-tied-head": (tied_llama, tied_llama, LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [1], "lm_head": [1]})),
    "tied-head": (tied_llama, tied_llama, LoraConfig(r=4, target_modules=["lm_head", "q_proj"])),
    "tied-embedding-saved": (tied_llama, tied_llama, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "tied-embedding-targeted": (tied_llama, tied_llama, LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)),
    "parameters": (Mixture, Mixture, LoraConfig(r=4, target_parameters=["experts.up", "experts.down"], target_modules=[])),
    "parameter-2d": (Mixture, Mixture, LoraConfig(r=4, target_parameters=["experts.flat"], target_modules=[])),
    "parameter-ranks": (Mixture, Mixture, LoraConfig(r=8, target_parameters=["experts.up", "experts.down"], target_modules=[], rank_pattern={"experts.down": 5})),
    "replication": (llama, llama, LoraConfig(r=4, target_modules=["q_proj", "k_proj"], layer_replication=[[0, 2], [0, 2]])),
    "gpt2": (gpt2, gpt2, LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc", "wte"], task_type="CAUSAL_LM")),
    "gpt2-dora": (gpt2, gpt2, LoraConfig(r=4, target_modules=["c_attn", "c_fc"], use_dora=True, fan_in_fan_out=True)),
    "vocabulary-resized": (resized_llama, llama, LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "vocabulary-resized-copy": (resized_llama, llama, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "kasa": (Mlp, Mlp, LoraConfig(r=4, target_modules=["lin0"], kasa_config=KasaConfig())),
    "adalora": (Mlp, Mlp, AdaLoraConfig(target_modules=["lin0"], init_r=6, total_step=10)),
    "ia3": (Mlp, Mlp, IA3Config(target_modules=["lin0"], feedforward_modules=[])),
    "loha": (Mlp, Mlp, LoHaConfig(r=4, target_modules=["lin0"])),
    "vera": (Mlp, Mlp, VeraConfig(r=4, target_modules=["lin0"])),
    "prompt": (llama, llama, PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")),
}  # fmt: skip


def save_base(make, folder):
    """Save an untrained checkpoint as its own library does."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = make()
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors"
        )
    return folder


def save_adapter(make, config, folder):
    """Save an adapter with every tensor drawn at random, so that nothing is zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(make(), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".base_layer.weight" not in name and parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    return folder
