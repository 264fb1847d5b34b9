"""Layers that an adapter repeats, written out under their new numbers."""

import json

import pytest
import torch
import transformers

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.test_replication import FAMILIES, RANGES, _gemma


@pytest.mark.parametrize("family", FAMILIES)
def test_each_repeated_layer_is_written_with_its_own_changes(tmp_path, family):
    make, targets = FAMILIES[family]
    model = make()
    folder = lora_folder(tmp_path / "a", model, target_modules=targets, layer_replication=RANGES)
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    again = type(model).from_pretrained(done)
    assert again.config.num_hidden_layers == 5
    close(out(again), out(beside(model, [folder])), 1e-5)


def test_what_a_config_says_of_each_layer_is_repeated_with_it(tmp_path):
    model = _gemma()
    folder = lora_folder(tmp_path / "a", model, layer_replication=RANGES)
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    config = json.loads((done / "config.json").read_text())
    assert config["layer_types"] == [
        "sliding_attention",
        "full_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
    ]
    runtime = Runtime(model)
    runtime.load("a", folder)
    runtime.activate("a")
    close(out(type(model).from_pretrained(done)), out(model), 1e-5)


def test_a_weight_of_nothing_leaves_the_repeated_base(tmp_path):
    model = llama(num_hidden_layers=3)
    folder = lora_folder(tmp_path / "a", model, layer_replication=RANGES)
    wrapped = beside(model, [folder])
    base = saved(model, tmp_path / "base")
    found = tensors(merged(base, [folder], tmp_path / "out", [0.0]))
    with wrapped.disable_adapter():
        close(out(llama().from_pretrained(tmp_path / "out")), out(wrapped))
    before = tensors(base)
    for place, source in enumerate([0, 1, 1, 2, 0]):
        name = "model.layers.{}.self_attn.q_proj.weight"
        assert torch.equal(found[name.format(place)], before[name.format(source)])


def test_two_adapters_that_repeat_alike_add_up(tmp_path):
    model = llama(num_hidden_layers=3)
    folders = [
        lora_folder(tmp_path / name, model, seed=seed, layer_replication=RANGES) for seed, name in enumerate("ab", 1)
    ]
    found = tensors(merged(saved(model, tmp_path / "base"), folders, tmp_path / "out"))
    alone = [tensors(merged(tmp_path / "base", [folder], tmp_path / folder.name / "out")) for folder in folders]
    name, source = "model.layers.4.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"
    W = tensors(tmp_path / "base")[source].double()
    close(found[name].double(), sum(one[name].double() - W for one in alone) + W, 1e-6)


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        ([[0, 2], [2, 4]], "expected 0 <= start < end <= 3, found [2, 4]"),
        ([[2, 1]], "expected 0 <= start < end <= 3, found [2, 1]"),
        ([[-1, 2]], "expected 0 <= start < end <= 3, found [-1, 2]"),
    ],
)
def test_ranges_that_the_base_does_not_have_are_refused_by_name(tmp_path, ranges, told):
    model = llama(num_hidden_layers=3)
    folder = lora_folder(tmp_path / "a", model)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"layer_replication": ranges}))
    with pytest.raises(RefusedError) as refused:
        merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["replication-range"]
    assert told in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_adapters_that_repeat_other_layers_are_refused_together(tmp_path):
    model = llama(num_hidden_layers=3)
    one = lora_folder(tmp_path / "one", model, layer_replication=RANGES)
    other = lora_folder(tmp_path / "other", model)
    with pytest.raises(RefusedError, match=r"found one \[\[0, 2\], \[1, 3\], \[0, 1\]\] and other \[\]"):
        merged(saved(model, tmp_path / "base"), [one, other], tmp_path / "out")


def test_a_base_without_such_layers_is_refused(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    folder = lora_folder(tmp_path / "a", model, target_modules=["q"])
    held = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(held | {"layer_replication": [[0, 1]]}))
    with pytest.raises(RefusedError, match="expected layers as Llama, BERT or GPT-2 name them"):
        merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
