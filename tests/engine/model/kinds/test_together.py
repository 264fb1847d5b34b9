"""Adapters of different types on one model at once, and tables that a model ties."""

import copy

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel, TrainableTokensConfig

from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import INPUTS
from tests.engine.model.kinds.test_kinds import close
from tests.engine.model.live import llama

IDS = torch.randint(0, 64, (4, 6), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_rows_of_one_batch_go_through_adapters_of_different_types(tmp_path):
    names = ["one", "turned", "last"]
    configs = {
        "lora": LoraConfig(r=3, lora_alpha=6, target_modules=names),
        "dora": LoraConfig(r=5, lora_alpha=6, target_modules=["one"], use_dora=True, bias="all"),
        "ia3": IA3Config(target_modules=names, feedforward_modules=["last"]),
        "ada": AdaLoraConfig(init_r=4, lora_alpha=5, target_modules=names, total_step=10),
    }
    x = torch.randn(5, 5, 12, generator=torch.Generator().manual_seed(5))
    model = oracle.seeded(oracle.Linears)
    base = model(x)
    runtime = Runtime(model)
    expected = {}
    for name, config in configs.items():
        folder = oracle.saved(tmp_path / name, oracle.seeded(oracle.Linears), config)
        expected[name] = oracle.run(oracle.seeded(oracle.Linears), [folder], x)
        runtime.load(name, folder)

    found = runtime(x, adapter_names=["ia3", "ada", "__base__", "dora", "lora"])

    for row, name in enumerate(["ia3", "ada", None, "dora", "lora"]):
        if name is None:
            assert torch.equal(found[row], base[row])
        else:
            close(found[row], expected[name][row])


@torch.no_grad()
def test_a_scale_after_a_low_rank_term_multiplies_it_and_before_does_not(tmp_path):
    x = INPUTS[oracle.Linears]
    model = oracle.seeded(oracle.Linears)
    last = model.last
    folders = {
        "lora": oracle.saved(tmp_path / "l", model, LoraConfig(r=2, target_modules=["last"])),
        "ia3": oracle.saved(tmp_path / "i", model, IA3Config(target_modules=["last"], feedforward_modules=[])),
    }
    seen = {}
    last.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    runtime = Runtime(model)
    for name, folder in folders.items():
        runtime.load(name, folder)
    lora, scale = runtime.state_dict("lora"), runtime.state_dict("ia3")["base_model.model.last.ia3_l"].flatten()
    A, B = lora["base_model.model.last.lora_A.weight"], lora["base_model.model.last.lora_B.weight"]

    runtime.activate(["lora", "ia3"])
    after = runtime(x)
    runtime.activate(["ia3", "lora"])
    before = runtime(x)

    plain, added = seen["x"] @ last.weight.T, seen["x"] @ A.T @ B.T * 4.0  # alpha 8 / rank 2
    close(after, (plain + added) * scale)
    close(before, plain * scale + added)


def _tied(folder, config):
    model = llama(tie_word_embeddings=True)
    oracle.saved(folder, model, config)
    with torch.no_grad(), oracle.quiet():
        return model, PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()(IDS).logits


TIED = {
    "tokens": LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 9, 40]),
    "tokens of both": LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 3], "lm_head": [5, 3]}
    ),
    "tokens apart": LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 3], "lm_head": [8]}
    ),
    "tokens alone": TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"]),
    "factors of the table": LoraConfig(r=2, target_modules=["embed_tokens"]),
    "factors of the head": LoraConfig(r=2, target_modules=["lm_head"]),
    "factors of both, tied": LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True),
    "factors and tokens": LoraConfig(r=2, target_modules=["q_proj", "lm_head"], trainable_token_indices=[7]),
}


@pytest.mark.parametrize("name", TIED)
@torch.no_grad()
def test_tables_that_a_model_ties_do_what_peft_does(name, tmp_path):
    model, expected = _tied(tmp_path / "a", TIED[name])
    base = model(IDS).logits
    assert not torch.allclose(base, expected, atol=1e-2)
    runtime = Runtime(model)
    runtime.load("a", tmp_path / "a")

    runtime.activate("a")
    close(model(IDS).logits, expected)

    mixed = runtime(IDS, adapter_names=["a", "__base__", "a", "__base__"]).logits
    close(mixed[0], expected[0])
    close(mixed[2], expected[2])
    assert torch.equal(mixed[1], base[1])
    assert torch.equal(mixed[3], base[3])
