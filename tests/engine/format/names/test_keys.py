"""Tensor names taken apart, by whole components."""

import pytest

from engine.format.names.keys import parse_key, wrapped_path

# name on disk (without the prefix), module, role: the names that PEFT writes
NAMES = [
    ("m.q.lora_A.weight", "m.q", "A"),
    ("m.q.lora_B.weight", "m.q", "B"),
    ("m.q.lora_B.bias", "m.q", "lora_bias"),
    ("m.emb.lora_embedding_A", "m.emb", "embedding_A"),
    ("m.emb.lora_embedding_B", "m.emb", "embedding_B"),
    ("m.q.lora_magnitude_vector", "m.q", "magnitude"),
    ("m.q.lora_magnitude_vector.weight", "m.q", "magnitude"),
    ("m.q.lora_diag", "m.q", "diag"),
    ("m.q.lora_velora_embed", "m.q", "velora"),
    ("m.q.lora_monteclora_sampler.std_prior", "m.q", "monteclora"),
    ("attn.base_layer.out_proj.lora_A.weight", "attn.base_layer.out_proj", "A"),
    ("experts.base_layer.lora_A.weight", "experts.base_layer", "A"),
    ("emb.token_adapter.trainable_tokens_delta", "emb", "tokens"),
    ("emb.base_layer.weight", "emb", "base_layer"),
    ("q.base_layer.bias", "q", "base_layer"),
    ("head.weight", "head", "parameter"),
    ("m.experts.gate_up_proj", "m.experts", "parameter"),
    # what only looks like one
    ("m.q.lora_A.default.weight", "m.q.lora_A.default", "unknown"),
    ("m.q.lora_A", "m.q", "unknown"),
    ("m.q.lora_C.weight", "m.q.lora_C", "unknown"),
    ("m.xlora_A.weight", "m.xlora_A", "parameter"),
    ("m.q_lora_magnitude_vector", "m", "parameter"),
    ("lora_A.weight", "lora_A", "unknown"),
    ("weight", "", "unknown"),
]


@pytest.mark.parametrize(("name", "module", "role"), NAMES)
@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_name_is_taken_apart(prefix, name, module, role):
    key = parse_key(prefix + name)
    assert (key.name, key.module, key.role) == (prefix + name, module, role)


@pytest.mark.parametrize(
    ("module", "wrapped"),
    [
        ("a.b", "a.b"),
        ("a.base_layer.out_proj", "a"),
        ("e.base_layer.base_layer", "e"),
        ("a.base_layers.b", "a.base_layers.b"),
    ],
)
def test_rules_speak_of_the_wrapped_module(module, wrapped):
    assert wrapped_path(module) == wrapped
