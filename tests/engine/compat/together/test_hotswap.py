"""One slot: each verdict is what the reference library's hotswap does with the same two adapters."""

import pytest

pytest.importorskip("peft")

from peft import IA3Config, KasaConfig

from engine.compat.together.check import check_together
from engine.compat.together.hotswap import RULES
from engine.format.adapter import read_adapter
from tests.engine.compat.together.oracle import Attention, Bare, Convs, Net, lora, save, swaps

# name -> (model, one config, other config, rules that speak of an error)
SHARED = {"r": 4, "lora_alpha": 4, "rank_pattern": {"head": 8}, "alpha_pattern": {"head": 8}}
EXPERTS = {"target_modules": [], "target_parameters": ["inner.each"]}
BARE = {"target_modules": [], "target_parameters": ["inner.up"]}
PAIRS = {
    "other-alpha": (Net, lora(), lora(lora_alpha=3), set()),
    "other-rank": (Net, lora(), lora(r=8), set()),
    "other-rank-back": (Net, lora(r=8), lora(), set()),
    "rslora-in-both": (Net, lora(use_rslora=True), lora(use_rslora=True, r=2), set()),
    "rslora-in-one": (Net, lora(use_rslora=True), lora(), {"hotswap-settings"}),
    "other-dropout": (Net, lora(lora_dropout=0.1), lora(), {"hotswap-settings"}),
    "alpha-pattern-in-both": (Net, lora(alpha_pattern={"head": 3}), lora(alpha_pattern={"head": 3}), {"hotswap-scaling"}),
    "alpha-pattern-in-one": (Net, lora(alpha_pattern={"head": 3}), lora(), {"hotswap-settings", "hotswap-scaling"}),
    "rank-pattern-in-one": (Net, lora(), lora(rank_pattern={"head": 2}), {"hotswap-scaling"}),
    "patterns-that-keep-the-scaling": (Net, lora(**SHARED), lora(**SHARED), set()),
    "fewer-targets": (Net, lora(), lora(target_modules=["lin0"]), set()),
    "more-targets": (Net, lora(target_modules=["lin0"]), lora(), set()),
    "other-targets": (Net, lora(target_modules=["lin0"]), lora(target_modules=["head"]), {"hotswap-places"}),
    "dora-in-both": (Net, lora(use_dora=True), lora(use_dora=True), {"hotswap-dora"}),
    "embedding": (Net, lora(target_modules=["emb"]), lora(target_modules=["emb"]), {"hotswap-embedding"}),
    "biases": (Net, lora(bias="all"), lora(bias="all"), {"hotswap-copies"}),
    "copies": (Net, lora(target_modules=["lin0"], modules_to_save=["head"]), lora(target_modules=["lin0"], modules_to_save=["head"]), {"hotswap-copies"}),
    "a-copy-in-one": (Net, lora(target_modules=["lin0"]), lora(target_modules=["lin0"], modules_to_save=["head"]), {"hotswap-copies"}),
    "rows": (Net, lora(trainable_token_indices={"emb": [1, 2]}), lora(trainable_token_indices={"emb": [1, 2]}), {"hotswap-copies"}),
    "lora-bias-in-both": (Net, lora(lora_bias=True), lora(lora_bias=True), set()),
    "lora-bias-in-one": (Net, lora(), lora(lora_bias=True), set()),
    "pissa-of-one-rank": (Net, lora(init_lora_weights="pissa"), lora(init_lora_weights="pissa", lora_alpha=3), set()),
    "pissa-of-two-ranks": (Net, lora(init_lora_weights="pissa"), lora(init_lora_weights="pissa", r=2), {"hotswap-changed-base"}),
    "pissa-in-one": (Net, lora(), lora(init_lora_weights="pissa"), {"hotswap-changed-base"}),
    "olora": (Net, lora(init_lora_weights="olora"), lora(init_lora_weights="olora", lora_alpha=3), {"hotswap-changed-base"}),
    "kasa": (Net, lora(kasa_config=KasaConfig()), lora(kasa_config=KasaConfig()), {"hotswap-changed-base"}),
    "ia3": (Net, IA3Config(target_modules=["lin0"], feedforward_modules=[]), IA3Config(target_modules=["lin0"], feedforward_modules=[]), {"hotswap-type"}),
    "conv1d": (Convs, lora(target_modules=["one"]), lora(target_modules=["one"], lora_alpha=3), set()),
    "conv1d-other-rank": (Convs, lora(target_modules=["one"]), lora(target_modules=["one"], r=2), {"hotswap-rank"}),
    "conv2d-other-rank": (Convs, lora(target_modules=["two"]), lora(target_modules=["two"], r=2), set()),
    "grouped-other-rank": (Convs, lora(target_modules=["grouped"], r=8), lora(target_modules=["grouped"], r=4), set()),
    "conv3d-other-rank": (Convs, lora(target_modules=["three"]), lora(target_modules=["three"], r=2), {"hotswap-rank"}),
    "attention": (Attention, lora(target_modules=["mha"]), lora(target_modules=["mha"], r=2), set()),
    "parameter": (Bare, lora(**BARE), lora(**BARE, lora_alpha=3), set()),
    "parameter-other-rank": (Bare, lora(**BARE), lora(**BARE, r=2), set()),
    "experts": (Bare, lora(**EXPERTS), lora(**EXPERTS, lora_alpha=3), set()),
    "experts-other-rank": (Bare, lora(**EXPERTS), lora(**EXPERTS, r=2), {"hotswap-rank"}),
}  # fmt: skip


@pytest.fixture
def pair(request, tmp_path):
    make, one, other, rules = PAIRS[request.param]
    folders = [save(make, one, tmp_path / "one", 1), save(make, other, tmp_path / "other", 2)]
    return make, folders, rules


def _errors(answer):
    return {finding.rule for finding in answer.findings if finding.severity == "error"}


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_the_verdict_is_what_the_reference_library_does(pair):
    make, folders, rules = pair
    answer = check_together([read_adapter(folder) for folder in folders], "hotswap")
    first = next((one for one in folders if one.name == answer.numbers["load_first"]), folders[0])
    others = [folder for folder in folders if folder != first]

    assert _errors(answer) == rules
    assert bool(swaps(make, first, others)) == bool(rules)


def test_every_error_is_tripped_by_some_pair():
    """Those without a pair here need bases or layouts that one model cannot have twice; test_siblings has them."""
    tripped = {rule for _, _, _, rules in PAIRS.values() for rule in rules}

    assert {rule.id for rule in RULES if rule.severity == "error"} - tripped == {
        "hotswap-alone",
        "hotswap-base",
        "hotswap-replication",
        "hotswap-shape",
    }


def _saved(tmp_path, *configs, make=Net):
    return [read_adapter(save(make, config, tmp_path / str(place), place)) for place, config in enumerate(configs)]


def test_the_slot_has_the_largest_rank(tmp_path):
    answer = check_together(_saved(tmp_path, lora(r=3), lora(r=7), lora(r=5)), "hotswap")

    assert answer.numbers["target_rank"] == 7
    assert answer.numbers["ranks"] == {"0": 3, "1": 7, "2": 5}
    assert [finding.rule for finding in answer.findings] == ["hotswap-target-rank"]


def test_and_one_that_the_groups_of_a_convolution_divide(tmp_path):
    adapters = _saved(tmp_path, lora(target_modules=["grouped", "two"], r=4, rank_pattern={"two": 6}), make=Convs)

    assert check_together([*adapters, *adapters], "hotswap").numbers["target_rank"] == 8


def test_whoever_has_places_for_all_is_loaded_first(tmp_path):
    answer = check_together(
        _saved(tmp_path, lora(target_modules=["lin0"]), lora()), "hotswap", names=["a/x@1", "b/x@2"]
    )

    assert answer.numbers["load_first"] == "b/x@2"
    assert [finding.message for finding in answer.findings if finding.rule == "hotswap-order"] == [
        "load b/x@2 first, a/x@1 has no place for all of its tensors"
    ]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lora(r=8, lora_alpha=1), True),
        (lora(target_modules=["lin0"]), False),
        (lora(use_rslora=True), False),
        (lora(lora_bias=True), False),
    ],
)
def test_a_class_is_all_but_rank_and_alpha(tmp_path, other, same):
    answer = check_together(_saved(tmp_path, lora(), other), "hotswap")

    assert (answer.numbers["class"] is not None) == same
    assert not same or answer.numbers["class"].startswith("sha256:")
