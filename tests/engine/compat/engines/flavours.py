"""One adapter of every flavour on a tiny Llama, made by PEFT: the rows of the matrix in docs/compatibility.md."""

from __future__ import annotations

import copy
import json
import warnings

import torch
from peft import BdLoraConfig, KasaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

QKV = ["q_proj", "k_proj", "v_proj"]


def llama(**changes):
    settings = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**settings))


def biased_llama():
    return llama(attention_bias=True)


def plain(**changes):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": QKV, "task_type": "CAUSAL_LM", **changes})


def _edited(**changes):
    """A plain adapter whose config says more; for what PEFT can only make with data or a quantised base."""
    return {"edit": changes}


# name -> (config, model, what is edited afterwards)
FLAVOURS = {
    "plain": (plain(), llama, {}),
    "alpha equal to rank": (plain(lora_alpha=4), llama, {}),
    "all linear layers": (plain(target_modules="all-linear"), llama, {}),
    "q_proj alone": (plain(target_modules=["q_proj"]), llama, {}),
    "targets as a pattern": (plain(target_modules=r".*\.(q|k|v)_proj"), llama, {}),
    "rank 64": (plain(r=64, lora_alpha=64), llama, {}),
    "rsLoRA": (plain(use_rslora=True), llama, {}),
    "rank_pattern": (plain(rank_pattern={"q_proj": 2}), llama, {}),
    "alpha_pattern": (plain(alpha_pattern={"q_proj": 3}), llama, {}),
    "DoRA": (plain(use_dora=True), llama, {}),
    "lora_bias": (plain(lora_bias=True), llama, {}),
    "bias": (plain(bias="all"), biased_llama, {}),
    "modules_to_save lm_head": (plain(modules_to_save=["lm_head"]), llama, {}),
    "embedding": (plain(target_modules=[*QKV, "embed_tokens"]), llama, {}),
    "trainable tokens": (plain(trainable_token_indices=[1, 5]), llama, {}),
    "gaussian": (plain(init_lora_weights="gaussian"), llama, {}),
    "orthogonal": (plain(init_lora_weights="orthogonal"), llama, {}),
    "PiSSA": (plain(init_lora_weights="pissa"), llama, {}),
    "OLoRA": (plain(init_lora_weights="olora"), llama, {}),
    "LoftQ": (plain(), llama, {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}),
    "CorDA": (plain(), llama, {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}}),
    "LoRA-GA": (plain(), llama, {"init_lora_weights": "lora_ga", "lora_ga_config": {}}),
    "aLoRA": (plain(alora_invocation_tokens=[3, 4]), llama, {}),
    "layer replication": (plain(layer_replication=[[0, 1], [0, 1]]), llama, {}),
    "KaSA": (plain(kasa_config=KasaConfig()), llama, {}),
    "BD-LoRA": (plain(use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["k_proj"], nblocks=2, match_strict=False)), llama, {}),
    "QALoRA": (plain(), llama, {"use_qalora": True, "qalora_group_size": 16}),
    "Arrow": (plain(), llama, {"arrow_config": {"top_k": 2}}),
}  # fmt: skip


def make(name, folder):
    """Write the adapter of that flavour, its tensors drawn at random, and give the model it was made on."""
    config, model_of, edits = FLAVOURS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model_of(), copy.deepcopy(config))
        torch.manual_seed(1)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if ".base_layer.weight" not in key and parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.create_or_update_model_card = lambda _folder: None  # compiles a template for half of the time
        model.save_pretrained(folder)
    if edits:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **edits}))
    if name == "QALoRA":
        weights = folder / "adapter_model.safetensors"
        grouped = {
            key: value[:, ::16].contiguous() if "lora_A" in key else value for key, value in load_file(weights).items()
        }
        save_file(grouped, weights, metadata={"format": "pt"})
    return folder
