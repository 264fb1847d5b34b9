"""What fits a live model and what does not: every reason at once, by name, before a tensor is read."""

import json

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.model.fitting.fit import fit
from tests.engine.model.kinds import oracle


@pytest.fixture
def model():
    return oracle.seeded(oracle.Linears)


def _saved(folder, model, config=None):
    return oracle.saved(folder, model, config or LoraConfig(r=4, target_modules=["one", "last"]))


def _edit(folder, *, config=None, tensors=None):
    """Change the adapter's config, and its tensors by name (None: taken away)."""
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | (config or {})))
    held = load_file(folder / "adapter_model.safetensors") | (tensors or {})
    save_file(
        {name: tensor for name, tensor in held.items() if tensor is not None}, folder / "adapter_model.safetensors"
    )


def _findings(folder, model):
    with pytest.raises(RefusedError) as refused:
        fit(read_adapter(folder), dict(model.named_modules()))
    return {(finding.rule, finding.where): finding for finding in refused.value.findings}


_P = "base_model.model."


def test_every_reason_is_given_at_once(model, tmp_path):
    folder = _saved(tmp_path / "a", model)
    tensors = {
        f"{_P}one.lora_A.weight": torch.ones(4, 13),
        f"{_P}last.lora_B.weight": None,
        f"{_P}gone.weight": torch.ones(2),
    }
    _edit(folder, config={"kasa_config": {"beta": 1}, "init_lora_weights": "pissa"}, tensors=tensors)

    found = _findings(folder, model)

    assert set(found) == {
        ("base-shape", f"{_P}one.lora_A.weight"),
        ("pair-incomplete", "last"),
        ("tensor-unmatched", f"{_P}gone.weight"),
        ("own-variant", "kasa_config"),
        ("own-initialisation", "init_lora_weights"),
    }
    assert (
        found["base-shape", f"{_P}one.lora_A.weight"].message
        == f"{_P}one.lora_A.weight: expected [4, 12], found [4, 13]"
    )


@pytest.mark.parametrize(
    ("settings", "rule", "words"),
    [
        (
            {"kasa_config": {"a": 1}},
            "own-variant",
            "kasa_config: expected plain factors, found KaSA, which does not run here",
        ),
        (
            {"velora_config": {"a": 1}},
            "own-variant",
            "velora_config: expected plain factors, found VeLoRA, which does not run here",
        ),
        (
            {"monteclora_config": {"a": 1}},
            "own-variant",
            "monteclora_config: expected plain factors, found MonteCLoRA, which does not run here",
        ),
        (
            {"use_bdlora": {"a": 1}},
            "own-variant",
            "use_bdlora: expected plain factors, found BD-LoRA, which does not run here",
        ),
        (
            {"use_qalora": True},
            "own-variant",
            "use_qalora: expected plain factors, found QA-LoRA, which does not run here",
        ),
        (
            {"alora_invocation_tokens": [1]},
            "own-variant",
            "alora_invocation_tokens: expected plain factors, found activated LoRA, which does not run here",
        ),
        (
            {"arrow_config": {"a": 1}},
            "own-variant",
            "arrow_config: expected plain factors, found Arrow, which does not run here",
        ),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "own-initialisation",
            "adapters convert REF --for own --initial INITIAL",
        ),
        ({"init_lora_weights": "olora"}, "own-initialisation", "adapters convert REF --for own --initial INITIAL"),
        ({"init_lora_weights": "corda"}, "own-initialisation", "adapters convert REF --for own --initial INITIAL"),
        ({"init_lora_weights": "lora_ga"}, "own-initialisation", "adapters convert REF --for own --initial INITIAL"),
        ({"init_lora_weights": "loftq", "loftq_config": {"a": 1}}, "own-initialisation", "without LoftQ"),
        ({"r": 5}, "rank-mismatch", "one: expected rank 5, found 4"),
        ({"peft_type": "LOHA"}, "own-type", "expected LORA, ADALORA, IA3, TRAINABLE_TOKENS, found 'LOHA'"),
    ],
)
def test_what_is_no_change_of_the_base_as_it_is_is_refused_by_name(settings, rule, words, model, tmp_path):
    folder = _saved(tmp_path / "a", model)
    _edit(folder, config=settings)

    found = _findings(folder, model)

    assert any(name == rule and words in finding.message for (name, _), finding in found.items())


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "mica", "eva"])
def test_other_beginnings_are_plain_lora(init, model, tmp_path):
    folder = _saved(tmp_path / "a", model)
    _edit(folder, config={"init_lora_weights": init})

    assert len(fit(read_adapter(folder), dict(model.named_modules()))) == 2


def test_a_role_that_a_kind_of_layer_does_not_take_is_named(model, tmp_path):
    folder = _saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["one"], bias="all"))
    _edit(folder, tensors={f"{_P}last.bias": torch.zeros(7)})

    message = _findings(folder, model)["own-role", f"{_P}last.bias"].message
    assert message.startswith(f"{_P}last.bias: a Linear takes no bias, expected A, B, ")


def test_a_tensor_of_whole_numbers_is_refused(model, tmp_path):
    folder = _saved(tmp_path / "a", model)
    _edit(folder, tensors={f"{_P}one.lora_A.weight": torch.ones(4, 12, dtype=torch.int32)})

    assert ("own-dtype", f"{_P}one.lora_A.weight") in _findings(folder, model)


def test_a_module_of_no_known_kind_is_refused_with_its_class(tmp_path):
    class Odd(nn.Linear):
        pass

    model = nn.ModuleDict({"one": Odd(4, 4), "other": nn.Linear(4, 4)})
    folder = _saved(tmp_path / "a", model, LoraConfig(r=2, target_modules=["one"]))
    model["one"] = nn.Bilinear(4, 4, 4)

    assert (
        "a Bilinear takes no A, expected bias" in _findings(folder, model)["own-role", f"{_P}one.lora_A.weight"].message
    )


def test_an_embedding_that_renormalises_its_table_is_refused(tmp_path):
    model = nn.ModuleDict({"words": nn.Embedding(8, 4)})
    folder = _saved(tmp_path / "a", model, LoraConfig(r=2, target_modules=["words"]))
    model["words"].max_norm = 1.0

    assert ("own-kind", "words") in _findings(folder, model)


def test_a_dilated_convolution_takes_no_factors_as_peft_cannot_run_it(tmp_path):
    model = nn.ModuleDict({"one": nn.Conv1d(4, 4, 3)})
    folder = _saved(tmp_path / "a", model, LoraConfig(r=2, target_modules=["one"]))
    model["one"].dilation = (2,)

    assert ("own-role", f"{_P}one.lora_A.weight") in _findings(folder, model)


def test_rows_of_tokens_are_held_against_the_config_and_the_table(tmp_path):
    model = oracle.seeded(oracle.Embeddings)
    config = LoraConfig(r=2, target_modules=["last"], trainable_token_indices={"words": [3, 7]})
    few = _saved(tmp_path / "a", model, config)
    _edit(few, config={"trainable_token_indices": {"words": [3, 7, 8]}})
    beyond = _saved(tmp_path / "b", model, config)
    _edit(beyond, config={"trainable_token_indices": {"words": [3, 20]}})
    name = f"{_P}words.token_adapter.trainable_tokens_delta"

    assert _findings(few, model)["token-rows", name].message.endswith(
        "expected 3 rows, one per token in the config, found 2"
    )
    assert _findings(beyond, model)["token-absent", name].message.endswith("token 20: the model has 20")


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(target_modules=["one", "last"], feedforward_modules=["last"]),
        AdaLoraConfig(init_r=4, target_modules=["one", "last"], total_step=10),
    ],
)
def test_other_types_are_held_against_the_model_too(config, model, tmp_path):
    folder = _saved(tmp_path / "a", model, config)
    names = load_file(folder / "adapter_model.safetensors")
    _edit(folder, tensors={name: tensor[..., :-1].contiguous() for name, tensor in names.items() if ".one." in name})
    _edit(folder, tensors={f"{_P}one.stray": torch.ones(1)})

    rules = [rule for rule, _ in _findings(folder, model)]

    assert "base-shape" in rules
    assert "tensor-unmatched" in rules
