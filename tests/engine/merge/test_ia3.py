"""IA3: the weighted sum of the vectors, which peft's own add_weighted_adapter makes too."""

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.errors import ConfigError, PatternError, RefusedError
from engine.merge import METHODS, Source, merge, plan
from tests.engine.merge.factories import PREFIX, linear, normal, write_adapter
from tests.engine.tiny import llama


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.one = nn.Linear(12, 16)
        self.two = nn.Linear(16, 12)
        self.conv = nn.Conv2d(1, 4, (3, 5))
        self.head = nn.Linear(12, 5)

    def forward(self, ids):
        x = self.two(self.one(self.emb(ids)).tanh())
        return self.head(x).sum(-1), self.conv(x[:, None]).sum(1)


IDS = torch.arange(24).reshape(2, 12) * 7 % 20


def make_parent(base, folder, seed, **config):
    found = peft.get_peft_model(copy.deepcopy(base), peft.IA3Config(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "ia3_l" in name or "modules_to_save" in name:
                parameter.copy_(1 + 0.4 * torch.randn(parameter.shape, generator=generator))
    found.save_pretrained(folder)
    return folder


def logits(found):
    with torch.no_grad():
        result = found(IDS)
    return (
        getattr(result, "logits", None) if not isinstance(result, tuple) else torch.cat([r.flatten() for r in result])
    )


CASES = {
    "same targets": (
        Model,
        {"target_modules": ["one", "two"], "feedforward_modules": ["two"]},
        {"target_modules": ["one", "two"], "feedforward_modules": ["two"]},
    ),
    "union": (
        Model,
        {"target_modules": ["one", "conv"], "feedforward_modules": []},
        {"target_modules": ["one", "two"], "feedforward_modules": ["two"]},
    ),
    "llama": (
        llama,
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_peft_makes_the_same(tmp_path, name):
    make, *configs = CASES[name]
    torch.manual_seed(0)
    base = make().eval()
    folders = [make_parent(base, tmp_path / str(seed), seed, **config) for seed, config in enumerate(configs, 1)]
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name="left")
    theirs.load_adapter(folders[1], "right")
    theirs.base_model.add_weighted_adapter(["left", "right"], [0.7, -0.4], "both")
    theirs.set_adapter("both")

    merge([Source(folders[0], 0.7), Source(folders[1], -0.4)], method="linear", out=tmp_path / "out")

    ours = peft.PeftModel(copy.deepcopy(base), peft.IA3Config.from_pretrained(tmp_path / "out"))
    loaded = ours.load_adapter(tmp_path / "out", "default")
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    wanted = peft.get_peft_model_state_dict(theirs, adapter_name="both")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[key], wanted[key], rtol=1e-6, atol=1e-7) for key in wanted)
    assert torch.allclose(logits(ours), logits(theirs), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits(ours), logits(base), atol=1e-2)


def parent(folder, tensors, **config):
    named = {f"{PREFIX}{name}": value for name, value in tensors.items()}
    return write_adapter(folder, named, **{"peft_type": "IA3", "target_modules": ["one", "two"],
                                           "feedforward_modules": ["two"], **config})  # fmt: skip


def vectors(seed):
    return {"one.ia3_l": normal(seed, 16, 1), "two.ia3_l": normal(seed + 9, 1, 16)}


def test_the_sum_is_in_float64_rounded_once(tmp_path):
    folders = [parent(tmp_path / str(seed), vectors(seed)) for seed in (1, 2, 3)]
    weights = (0.3, -1.7, 0.9)

    report = merge([Source(*pair) for pair in zip(folders, weights, strict=True)], method="linear",
                   out=tmp_path / "out")  # fmt: skip

    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    total = sum(w * vectors(s)["one.ia3_l"].double() for w, s in zip(weights, (1, 2, 3), strict=True))
    assert torch.equal(found[f"{PREFIX}one.ia3_l"], total.float())
    assert report.per_module[0].norm == pytest.approx(float(total.norm()))
    assert (report.modules, report.energy_kept, report.rank) == (2, pytest.approx(1.0), 1)


def test_full_copies_are_treated_as_with_lora(tmp_path):
    head = {"head.weight": normal(7, 5, 12)}
    saving = parent(tmp_path / "a", vectors(1) | head, modules_to_save=["head"])
    again = parent(tmp_path / "b", vectors(2) | {"head.weight": normal(8, 5, 12)}, modules_to_save=["head"])

    merge([Source(saving, 1.0), Source(parent(tmp_path / "c", vectors(2)), 1.0)], method="linear", out=tmp_path / "out")

    assert torch.equal(load_file(tmp_path / "out/adapter_model.safetensors")[f"{PREFIX}head.weight"], normal(7, 5, 12))
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["modules_to_save"] == ["head"]
    with pytest.raises(RefusedError) as caught:
        plan([Source(saving, 1.0), Source(again, 1.0)], method="linear")
    assert [finding.rule for finding in caught.value.findings] == ["merge-modules-to-save"]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"linear"}))
def test_every_other_method_is_refused(tmp_path, method):
    count = METHODS[method].most or 2
    folders = [parent(tmp_path / str(seed), vectors(seed)) for seed in range(count)]

    with pytest.raises(RefusedError) as caught:
        plan([Source(folder, 0.5) for folder in folders], method=method)

    assert [finding.rule for finding in caught.value.findings] == ["merge-type"]


REFUSED = {
    "lora beside it": (
        "merge-type",
        lambda folder: write_adapter(folder, linear("one", inputs=12, outputs=16, rank=4, seed=1)),
    ),
    "another length": ("merge-shapes", lambda folder: parent(folder, {"one.ia3_l": normal(1, 15, 1)})),
    "other side": (
        "merge-shapes",
        lambda folder: parent(folder, vectors(2), feedforward_modules=[]),
    ),
    "stray tensor": ("merge-tensors", lambda folder: parent(folder, vectors(2) | {"three.weight": normal(1, 3, 3)})),
    "no vectors": ("merge-tensors", lambda folder: parent(folder, {})),
    "whole numbers": (
        "merge-values",
        lambda folder: parent(folder, {"one.ia3_l": torch.ones(16, 1, dtype=torch.int8)}),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_summed(tmp_path, name):
    rule, make = REFUSED[name]
    plain = parent(tmp_path / "a", vectors(1))

    with pytest.raises(RefusedError) as caught:
        plan([Source(plain, 0.5), Source(make(tmp_path / "b"), 0.5)], method="linear")

    assert {finding.rule for finding in caught.value.findings} == {rule}


def test_a_nan_is_found_while_merging(tmp_path):
    folder = parent(tmp_path / "a", {"one.ia3_l": torch.full((16, 1), float("nan"))})

    with pytest.raises(RefusedError) as caught:
        merge([Source(folder, 1.0)], method="linear", out=tmp_path / "out")

    assert [finding.rule for finding in caught.value.findings] == ["merge-values"]
    assert not (tmp_path / "out").exists()


def test_endings_that_would_match_other_modules_are_written_as_expressions(tmp_path):
    """PEFT reads feedforward_modules as endings without a dot: `a.b.c.two` would be one of `x.aa.b.c.two` too."""
    names = {"a.b.c.two": normal(1, 1, 16), "aa.b.c.two": normal(2, 16, 1)}
    folder = parent(
        tmp_path / "a",
        {f"{name}.ia3_l": value for name, value in names.items()},
        target_modules=list(names),
        feedforward_modules=r"a\.b\.c\.two",
    )

    config = plan([Source(folder, 1.0)], method="linear").config

    assert config["target_modules"] == sorted(names)
    assert config["feedforward_modules"] == r"a\.b\.c\.two"


@pytest.mark.parametrize("count", [1, 2])
def test_other_semantics_are_refused(tmp_path, count):
    folders = [parent(tmp_path / str(seed), vectors(seed)) for seed in range(count)]

    with pytest.raises(RefusedError) as caught:
        plan([Source(folder, 0.5) for folder in folders], method="linear", semantics="peft")

    assert [finding.rule for finding in caught.value.findings] == ["merge-type"]


@pytest.mark.parametrize(("key", "value"), [("modules_to_save", 5), ("modules_to_save", [5]), ("modules_to_save", "head"),
                                            ("feedforward_modules", 5), ("feedforward_modules", [5])])  # fmt: skip
def test_what_is_no_list_of_names_is_an_error_of_the_config(tmp_path, key, value):
    folder = parent(tmp_path / "a", vectors(1), **{key: value})

    with pytest.raises(ConfigError, match=f"{key} must be a list of names"):
        plan([Source(folder, 1.0)], method="linear")


def test_an_expression_that_takes_too_long_is_an_error_of_the_config(tmp_path):
    name = "a" * 60
    folder = parent(tmp_path / "a", {f"{name}.ia3_l": normal(1, 16, 1)}, feedforward_modules="(a|a)*(b|c)")

    with pytest.raises(PatternError, match="needs more than"):
        plan([Source(folder, 1.0)], method="linear")
