"""A merged checkpoint, loaded by plain transformers, does what PEFT's merge_and_unload does."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from engine.materialize import Request, Source, materialize


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A base of several shards in bfloat16 and an adapter on every linear layer."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=96
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size="60KB")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(folder / "adapter")
    return folder


def test_a_sharded_bf16_base_gives_pefts_merged_logits(llama, tmp_path):
    done = materialize(Request(base=llama / "base", sources=(Source(llama / "adapter"),)), tmp_path / "out")
    oracle = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(llama / "base"), llama / "adapter")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = oracle.merge_and_unload()(ids).logits
        found = LlamaForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    # PEFT adds in the base's dtype: a unit in the last place of a bfloat16 logit of at most 1 is 2^-8.
    assert (found - expected).abs().max() <= 2**-8
    assert done.report["modules"] == 14
