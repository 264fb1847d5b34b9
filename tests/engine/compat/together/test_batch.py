"""One batch: each verdict is what the reference library does when rows name the same two adapters."""

import pytest

pytest.importorskip("peft")

from peft import IA3Config, KasaConfig

from engine.compat.together.batch import RULES
from engine.compat.together.check import check_together
from engine.format.adapter import read_adapter
from tests.engine.compat.together.oracle import Attention, Bare, Convs, Net, batches, lora, save
from tests.engine.tiny import llama

ONE = {"target_modules": ["lin0"]}
BARE = {"target_modules": [], "target_parameters": ["inner.up"]}


class Tiny:
    """A Llama whose output is its logits."""

    def __new__(cls):
        model = llama()
        plain = model.forward
        model.forward = lambda x, **given: plain(x, **{k: v for k, v in given.items() if k != "adapter_names"}).logits
        return model


# name -> (model, one config, other config, rules that speak of an error)
PAIRS = {
    "other-alpha": (Net, lora(), lora(lora_alpha=3), set()),
    "other-rank": (Net, lora(), lora(r=8), set()),
    "other-targets": (Net, lora(target_modules=["lin0"]), lora(target_modules=["head"]), set()),
    "rslora-in-one": (Net, lora(use_rslora=True), lora(), set()),
    "patterns": (Net, lora(alpha_pattern={"head": 3}, rank_pattern={"head": 2}), lora(), set()),
    "embedding": (Net, lora(target_modules=["emb"]), lora(target_modules=["emb", "head"]), set()),
    "lora-bias-in-one": (Net, lora(), lora(lora_bias=True), set()),
    "convolutions": (Convs, lora(target_modules=["one", "two"]), lora(target_modules=["two", "grouped", "three"], r=8), set()),
    "dora-in-one": (Net, lora(use_dora=True), lora(), {"batch-dora"}),
    "attention": (Attention, lora(target_modules=["mha"]), lora(target_modules=["mha"]), {"batch-layer"}),
    "parameter": (Bare, lora(**BARE), lora(**BARE), {"batch-layer"}),
    "other-parameters": (Bare, lora(**BARE), lora(target_modules=[], target_parameters=["inner.up", "inner.down"]), {"batch-layer", "batch-parameters", "batch-shape"}),
    "copies": (Net, lora(**ONE, modules_to_save=["head"]), lora(**ONE, modules_to_save=["head"]), set()),
    "a-copy-in-one": (Net, lora(**ONE), lora(**ONE, modules_to_save=["head"]), {"batch-copies"}),
    "copies-of-a-norm": (Net, lora(**ONE, modules_to_save=["norm"]), lora(**ONE, modules_to_save=["norm"]), {"batch-copy-layer"}),
    "copies-of-a-block": (Net, lora(**ONE, modules_to_save=["block"]), lora(**ONE, modules_to_save=["block"]), {"batch-copy-layer"}),
    "rows": (Net, lora(trainable_token_indices={"emb": [1]}), lora(trainable_token_indices={"emb": [2]}), set()),
    "biases": (Net, lora(bias="all"), lora(), {"batch-bias"}),
    "pissa-in-one": (Net, lora(init_lora_weights="pissa"), lora(), {"batch-changed-base"}),
    "kasa-in-one": (Net, lora(kasa_config=KasaConfig()), lora(), {"batch-changed-base"}),
    "ia3": (Net, IA3Config(target_modules=["lin0"], feedforward_modules=[]), IA3Config(target_modules=["lin0"], feedforward_modules=[]), {"batch-type"}),
    "replication": (Tiny, lora(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]]), lora(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]]), {"batch-replication"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_the_verdict_is_what_the_reference_library_does(tmp_path, name):
    make, one, other, rules = PAIRS[name]
    folders = [save(make, one, tmp_path / "one", 1), save(make, other, tmp_path / "other", 2)]

    answer = check_together([read_adapter(folder) for folder in folders], "batch")

    assert {finding.rule for finding in answer.findings if finding.severity == "error"} == rules
    assert bool(batches(make, folders)) == bool(rules)


def test_every_error_is_tripped_by_some_pair():
    """Those without a pair here are in test_siblings."""
    tripped = {rule for _, _, _, rules in PAIRS.values() for rule in rules}

    assert {rule.id for rule in RULES if rule.severity == "error"} - tripped == {
        "batch-alone",
        "batch-base",
        "batch-tokens",
    }
