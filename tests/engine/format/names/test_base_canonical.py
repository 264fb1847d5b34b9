"""One name per parameter."""

import re
from pathlib import Path

import pytest

from engine.format.names.canonical import canonical, canonical_names, is_buffer, layout_parameters, tied_twins
from engine.format.names.prefixes import AMBIGUOUS_PREFIXES, MODEL_PREFIXES
from engine.format.names.renamed import RENAMED_TYPES


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("transformer.h.0.ln_1.weight", "h.0.ln_1.weight"),
        ("h.0.ln_1.weight", "h.0.ln_1.weight"),
        ("model.layers.3.self_attn.q_proj.weight", "layers.3.self_attn.q_proj.weight"),
        ("base_model.model.model.layers.3.self_attn.q_proj", "layers.3.self_attn.q_proj"),
        ("module.model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("_orig_mod.model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("model._orig_mod.layers.3._checkpoint_wrapped_module.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        ("encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        ("distilbert.transformer.layer.0.ffn.lin1.weight", "layer.0.ffn.lin1.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("encoder.model.layers.0.weight", "encoder.model.layers.0.weight"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("model", "model"),
        ("model.0.weight", "model.0.weight"),
    ],
)
def test_wrappers_and_leading_prefixes_go_and_all_else_stays(path, expected):
    assert canonical(path) == expected


def test_names_that_would_collide_keep_their_prefix():
    assert canonical_names(["model.norm.weight", "norm.weight", "model.head.weight"]) == {
        "model.norm.weight": "model.norm.weight",
        "norm.weight": "norm.weight",
        "model.head.weight": "head.weight",
    }


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("h.0.attn.bias", (1, 1, 1024, 1024), True),
        ("h.0.attn.c_attn.bias", (2304,), False),
        ("conv.bias", (1, 1, 3, 4), False),
        ("h.0.attn.masked_bias", (), True),
        ("embeddings.position_ids", (1, 512), True),
        ("layers.0.self_attn.rotary_emb.inv_freq", (64,), True),
        ("final_logits_bias", (1, 64), True),
        ("embeddings.position_embeddings.weight", (512, 768), False),
        ("bn.running_mean", (8,), True),
    ],
)
def test_buffers_are_told_from_parameters(path, shape, expected):
    assert is_buffer(path, shape) is expected


def test_a_tied_head_goes_and_the_embedding_stays():
    assert tied_twins({"model.embed_tokens.weight": "a", "lm_head.weight": "a"}) == {"lm_head.weight"}


def test_an_untied_head_stays():
    assert tied_twins({"model.embed_tokens.weight": "a", "lm_head.weight": "b"}) == frozenset()


def test_an_encoder_decoder_keeps_only_the_shared_embedding():
    names = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]

    assert tied_twins(dict.fromkeys(names, "a")) == set(names[1:])


def test_equal_norms_are_no_twins():
    assert tied_twins({"layers.0.norm.weight": "ones", "layers.1.norm.weight": "ones"}) == frozenset()


def test_the_layout_has_neither_buffers_nor_tied_copies():
    shapes = {"transformer.wte.weight": (5, 2), "lm_head.weight": (5, 2), "transformer.h.0.attn.bias": (1, 1, 4, 4)}

    assert layout_parameters(shapes, {"lm_head.weight"}) == {"wte.weight": (5, 2)}


def test_the_prefix_table_is_the_one_of_the_installed_transformers():
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "5.23.0":
        pytest.skip("the table is that of transformers 5.23.0")
    stated = set()
    for source in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        stated |= set(re.findall(r'base_model_prefix(?:: str)? = "([^"]+)"', source.read_text(encoding="utf-8")))

    assert {value for value in stated if "." not in value} == MODEL_PREFIXES | AMBIGUOUS_PREFIXES
    assert not MODEL_PREFIXES & AMBIGUOUS_PREFIXES


# Looking at every class imports what some of them need, and not all of that goes quietly.
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_renamed_families_is_the_one_of_the_installed_transformers():
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "5.23.0":
        pytest.skip("the table is that of transformers 5.23.0")
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping

    stated = set()
    for key in _build_checkpoint_conversion_mapping():
        if key[0].islower():
            stated.add(key)
        elif (known := getattr(transformers, key, None)) is not None:
            stated.add(known.config_class.model_type)

    assert stated - {"legacy"} == RENAMED_TYPES
