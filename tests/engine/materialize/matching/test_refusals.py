"""What cannot be carried is refused by name, all reasons at once, before anything is written."""

import json

import pytest
import torch
import transformers
from peft import IA3Config, LoHaConfig, OFTConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from engine.errors import BaseError, RefusedError, UnreadableError
from tests.engine.materialize.matching.judge import merged, saved, tensors
from tests.engine.model.live import llama, lora_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(llama(), tmp_path_factory.mktemp("refusals") / "base")


def changed(folder, **tensors_):
    """The adapter with these tensors in place of its own; None takes one away."""
    held = load_file(folder / "adapter_model.safetensors") | tensors_
    save_file({name: one for name, one in held.items() if one is not None}, folder / "adapter_model.safetensors")
    return folder


def configured(folder, **keys):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | keys))
    return folder


def refused(base, folders, to, **options):
    """The rules and messages; nothing may be left of the result."""
    with pytest.raises(RefusedError) as caught:
        merged(base, folders, to / "out", **options)
    assert not list(to.glob("out*")) + list(to.glob(".out*"))
    return [(finding.rule, finding.message) for finding in caught.value.findings]


Q0, K0 = (f"base_model.model.model.layers.0.self_attn.{one}_proj" for one in "qk")


def test_every_reason_of_every_adapter_comes_at_once(base, tmp_path):
    model = llama()
    one = changed(
        lora_folder(tmp_path / "one", model, target_modules=["q_proj"]),
        **{
            f"{Q0}.lora_A.weight": torch.zeros(4, 33),
            "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32),
            "base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight": torch.zeros(32, 4),
        },
    )
    other = changed(
        lora_folder(tmp_path / "other", model, target_modules=["q_proj"]),
        **{f"{K0}.lora_A.weight": torch.zeros(4, 32)},
    )
    assert refused(base, [one, other], tmp_path) == [
        ("base-shape", f"{Q0}.lora_A.weight: expected [4, 32], found [4, 33]"),
        ("base-module-absent", "model.layers.7.self_attn.q_proj: the base has no such module"),
        (
            "tensor-unmatched",
            f"{K0}.lora_A.weight: nothing in the config explains it",
        ),
        (
            "pair-incomplete",
            "model.layers.0.self_attn.k_proj: has only base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
        ),
    ]


def test_a_base_of_another_size(tmp_path):
    base = saved(llama(hidden_size=48), tmp_path / "base")
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"])
    found = refused(base, [folder], tmp_path)
    assert {rule for rule, _ in found} == {"base-shape"}
    assert len(found) == 4
    assert found[0][1] == f"{Q0}.lora_A.weight: expected [4, 48], found [4, 32]"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LoHaConfig(target_modules=["q_proj"]), "LOHA"),
        (VeraConfig(target_modules=["q_proj"]), "VERA"),
        (OFTConfig(target_modules=["q_proj"], oft_block_size=4, use_cayley_neumann=False), "OFT"),
    ],
    ids=["loha", "vera", "oft"],
)
@pytest.mark.filterwarnings("ignore")
def test_types_that_are_not_carried(base, tmp_path, config, told):
    get_peft_model(llama(), config).save_pretrained(tmp_path / "a")
    found = refused(base, [tmp_path / "a"], tmp_path)
    assert ("own-type", f"peft_type: expected LORA, ADALORA, IA3, TRAINABLE_TOKENS, found {told!r}") in found


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"alora_invocation_tokens": [3]}, "own-variant"),
        ({"use_qalora": True}, "own-variant"),
        ({"init_lora_weights": "pissa"}, "own-initialisation"),
        ({"use_dora": True}, "pair-incomplete"),
    ],
)
def test_settings_that_make_something_else_of_the_factors(base, tmp_path, keys, rule):
    folder = configured(lora_folder(tmp_path / "a", llama()), **keys)
    assert rule in {found for found, _ in refused(base, [folder], tmp_path)}


def test_a_bias_for_a_module_that_has_none(base, tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"], lora_bias=True)
    found = refused(base, [folder], tmp_path)
    assert [rule for rule, _ in found] == ["merge-bias", "merge-bias"]
    assert "model.layers.0.self_attn.q_proj: the adapter adds a bias and the module has none" in found[0][1]


def test_a_rank_that_is_not_the_configured_one(base, tmp_path):
    folder = configured(lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"]), r=5)
    found = refused(base, [folder], tmp_path)
    assert ("rank-mismatch", "model.layers.0.self_attn.q_proj: expected rank 5, found 4") in found


def test_factors_of_whole_numbers(base, tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"])
    changed(folder, **{f"{Q0}.lora_A.weight": torch.zeros(4, 32, dtype=torch.int32)})
    assert refused(base, [folder], tmp_path) == [
        ("own-dtype", f"{Q0}.lora_A.weight: expected a floating dtype, found I32")
    ]


@pytest.mark.parametrize(
    ("tokens", "rule", "told"),
    [([3, 64], "token-absent", "token 64: the table has 64 rows"), ([3], "token-rows", "expected 1 rows")],
)
def test_tokens_that_the_table_does_not_have(base, tmp_path, tokens, rule, told):
    folder = lora_folder(tmp_path / "a", llama(), trainable_token_indices={"embed_tokens": [3, 9]})
    configured(folder, trainable_token_indices={"embed_tokens": tokens})
    found = refused(base, [folder], tmp_path)
    assert [one for one, _ in found] == [rule]
    assert told in found[0][1]


def test_two_different_copies_of_one_module(base, tmp_path):
    folders = [
        lora_folder(tmp_path / name, llama(), seed=seed, target_modules=["q_proj"], modules_to_save=["model.norm"])
        for seed, name in enumerate("ab", 1)
    ]
    assert refused(base, folders, tmp_path) == [
        ("own-clash", "model.norm.weight: two adapters have different copies of it; only one can be on")
    ]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [-0.5, 0.0]])
def test_one_of_two_copies_is_on_where_the_other_has_a_weight_of_nothing(base, tmp_path, weights):
    """A copy is off at 0 and whole at any other weight."""
    folders = [
        lora_folder(tmp_path / name, llama(), seed=seed, target_modules=["q_proj"], modules_to_save=["model.norm"])
        for seed, name in enumerate("ab", 1)
    ]
    found = tensors(merged(base, folders, tmp_path / "out", weights))
    copy = load_file(folders[0] / "adapter_model.safetensors")["base_model.model.model.norm.weight"]
    assert torch.equal(found["model.norm.weight"], copy)


def test_the_same_copy_in_two_adapters_is_taken_once(base, tmp_path):
    folders = [
        lora_folder(tmp_path / name, llama(), seed=1, target_modules=["q_proj"], modules_to_save=["model.norm"])
        for name in "ab"
    ]
    copy = load_file(folders[0] / "adapter_model.safetensors")["base_model.model.model.norm.weight"]
    assert torch.equal(tensors(merged(base, folders, tmp_path / "out"))["model.norm.weight"], copy)


def test_a_head_of_a_model_that_the_adapter_does_not_tell(base, tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**llama().config.to_dict() | {"num_labels": 3, "pad_token_id": 0})
    classifier = transformers.LlamaForSequenceClassification(config)
    folder = lora_folder(tmp_path / "a", classifier, target_modules=["q_proj"], modules_to_save=["score"])
    configured(folder, auto_mapping=None)
    assert refused(base, [folder], tmp_path) == [("base-module-absent", "score.weight: the base has no such tensor")]


def test_vectors_of_ia3_that_do_not_fit(base, tmp_path):
    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(llama(), config).save_pretrained(tmp_path / "a")
    changed(tmp_path / "a", **{f"{Q0}.ia3_l": torch.ones(33, 1)})
    assert refused(base, [tmp_path / "a"], tmp_path) == [("base-shape", f"{Q0}.ia3_l: expected [32, 1], found [33, 1]")]


def test_a_target_parameter_that_is_not_there(base, tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=[], target_parameters=["q_proj.weight"])
    configured(folder, target_parameters=["q_proj.other"])
    found = refused(base, [folder], tmp_path)
    assert found[0] == (
        "base-module-absent",
        "model.layers.0.self_attn.q_proj: target_parameters name 0 of its parameters [], found factors for 1",
    )


def test_adapters_and_bases_that_are_not_there(base, tmp_path):
    folder = lora_folder(tmp_path / "a", llama())
    with pytest.raises(BaseError, match="no such file or folder"):
        merged(tmp_path / "none", [folder], tmp_path / "out")
    with pytest.raises(UnreadableError, match="not a folder"):
        merged(base, [tmp_path / "none"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
