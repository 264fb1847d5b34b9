"""The weights that are packed are those that transformers packs when it loads the model quantised."""

import warnings

import pytest
import torch
from safetensors import safe_open
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from engine.errors import RefusedError
from engine.materialize.matching.frame import Frame
from engine.materialize.quantising.convertible import linear_weights
from engine.materialize.stored.checkpoint import read_checkpoint

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA = {**SMALL, "vocab_size": 64}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama with a classifier": lambda: LlamaForSequenceClassification(LlamaConfig(**LLAMA, pad_token_id=0)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**SMALL, vocab_size=64)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, n_positions=16)),
    "llava": lambda: LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**SMALL, image_size=8, patch_size=4),
            text_config=LlamaConfig(**LLAMA),
            image_token_index=3,
        )
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**LLAMA, num_local_experts=2, num_key_value_heads=4)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**{**LLAMA, "ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 16})
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=1, num_heads=4, vocab_size=64)
    ),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4)),
}


def saved(name, folder):
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(folder / "base")
    return type(model)


def linear(folder, skipped=None):
    checkpoint = read_checkpoint(folder)
    return linear_weights(Frame(checkpoint, checkpoint.tensors, checkpoint.config), skipped)


@pytest.mark.parametrize("name", list(MODELS))
def test_transformers_packs_the_same_weights(tmp_path, name):
    model = saved(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = model.from_pretrained(tmp_path / "base", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
        loaded.save_pretrained(tmp_path / "theirs")
    found = linear(tmp_path / "base")
    with safe_open(tmp_path / "theirs/model.safetensors", "pt") as file:
        packed = {key.removesuffix(".quant_map") for key in file.keys() if key.endswith(".quant_map")}  # noqa: SIM118 (no mapping)
    assert found.keys() == packed
    assert set(found.values()) == {name == "gpt2"}


def test_modules_to_skip_take_the_place_of_the_output_layer(tmp_path):
    saved("llama", tmp_path)
    found = linear(tmp_path / "base", ["q_proj", "down_proj"])
    assert {name.split(".")[-2] for name in found} == {"k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "lm_head"}


def test_a_weight_to_pack_that_is_not_stored_is_refused_by_name(tmp_path):
    saved("llama", tmp_path)
    checkpoint = read_checkpoint(tmp_path / "base")
    stored = {name: weight for name, weight in checkpoint.tensors.items() if "up_proj" not in name}
    with pytest.raises(RefusedError, match=r"model.layers.0.mlp.up_proj.weight: transformers would load it packed"):
        linear_weights(Frame(checkpoint, stored, checkpoint.config))


def test_names_without_the_models_prefix_are_found_as_they_are_stored(tmp_path):
    saved("gpt2", tmp_path)
    checkpoint = read_checkpoint(tmp_path / "base")
    stored = {name.removeprefix("transformer."): weight for name, weight in checkpoint.tensors.items()}
    found = linear_weights(Frame(checkpoint, stored, checkpoint.config))
    assert set(found) == {f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
