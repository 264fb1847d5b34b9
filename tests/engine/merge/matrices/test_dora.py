"""DoRA parents with their base: the true ΔW is what peft 0.21.2 merges into the weights."""

import copy
import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import BaseError, RefusedError
from engine.merge import METHODS, Options, RankRule, Source, merge, plan
from tests.engine.merge.factories import PREFIX, best, deltas, distance, linear, normal, write_adapter

EXACT = 1e-5
"""peft computes norms and merged weights in float32, of which ΔW is a small difference."""


class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.lin = nn.Linear(12, 16)
        self.square = nn.Linear(12, 12)
        self.one = nn.Conv1d(4, 6, 3)
        self.two = nn.Conv2d(4, 8, (3, 5))
        self.three = nn.Conv3d(4, 6, 2)
        self.turned = transformers.pytorch_utils.Conv1D(16, 12)
        self.turned_square = transformers.pytorch_utils.Conv1D(12, 12)

    def forward(self, x):
        return x


def kinds():
    torch.manual_seed(0)
    base = Kinds().eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return base


def save_base(base, folder):
    folder.mkdir()
    save_file(base.state_dict(), folder / "model.safetensors")
    return folder


def make_parent(base, folder, seed, **config):
    settings = {"r": 4, "lora_alpha": 9, "use_dora": True, **config}
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


def true_deltas(base, folder):
    """Module to W' - W as peft merges it, (out, in) with kernels flat."""
    merged = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload()
    found = {}
    for name in deltas(folder):
        old, new = (model.get_submodule(name).weight.detach().double() for model in (base, merged))
        module = base.get_submodule(name)
        delta = new - old
        turned = isinstance(module, nn.Embedding | transformers.pytorch_utils.Conv1D)
        found[name] = (delta.T if turned else delta.flatten(1)).numpy()
    return found


TARGETS = {
    "linear": {"target_modules": ["lin", "square"]},
    "embedding": {"target_modules": ["emb"]},
    "convolutions": {"target_modules": ["one", "two", "three"]},
    "transposed": {"target_modules": ["turned", "turned_square"], "fan_in_fan_out": True},
    "rslora": {"target_modules": ["lin"], "use_rslora": True},
    "patterns": {"target_modules": ["lin", "square"], "rank_pattern": {"lin": 2}, "alpha_pattern": {"square": 3}},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_all_of_the_true_delta_is_what_peft_merges(tmp_path, name):
    base = kinds()
    parent = make_parent(base, tmp_path / "a", 1, **TARGETS[name])

    report = merge([Source(parent, 1.0)], method="resize", rule=RankRule("max"), out=tmp_path / "out",
                   base=save_base(base, tmp_path / "base"))  # fmt: skip

    wanted, found = true_deltas(base, parent), deltas(tmp_path / "out")
    assert found.keys() == wanted.keys()
    assert max(distance(found[key], wanted[key]) for key in wanted) < EXACT
    assert all(distance(deltas(parent)[key], wanted[key]) > 0.1 for key in wanted)
    assert report.parents[0].norm == pytest.approx(float(np.sqrt(sum((d**2).sum() for d in wanted.values()))), rel=1e-5)
    assert not json.loads((tmp_path / "out" / "adapter_config.json").read_text()).get("use_dora")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_sum_with_plain_lora_is_cut_to_the_best(tmp_path):
    """Expected from dense float64: the best rank 3 of 0.7 of the one and -0.4 of the other."""
    base = kinds()
    one = make_parent(base, tmp_path / "a", 1, target_modules=["lin", "square"])
    two = make_parent(base, tmp_path / "b", 2, target_modules=["lin"], use_dora=False)

    merge([Source(one, 0.7), Source(two, -0.4)], method="svd", rule=RankRule(3), out=tmp_path / "out",
          base=save_base(base, tmp_path / "base"))  # fmt: skip

    true = true_deltas(base, one)
    wanted = {"lin": 0.7 * true["lin"] - 0.4 * deltas(two)["lin"], "square": 0.7 * true["square"]}
    found = deltas(tmp_path / "out")
    assert max(distance(found[key], best(wanted[key], 3)) for key in wanted) < EXACT


def written(folder, *, rows=12, base_shape=(12, 16), name="one", base_dtype=torch.float32, **config):
    """A DoRA adapter of one Linear 16 to 12 and its base, with safetensors alone."""
    tensors = linear("one", inputs=16, outputs=12, rank=4, seed=1)
    tensors[f"{PREFIX}one.lora_magnitude_vector"] = normal(3, rows).abs() + 1
    adapter = write_adapter(folder / "a", tensors, **{"use_dora": True, **config})
    (folder / "base").mkdir()
    save_file({f"{name}.weight": normal(4, *base_shape).to(base_dtype)}, folder / "base" / "model.safetensors")
    return adapter, folder / "base"


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.full_rank])
def test_every_method_that_takes_a_dense_delta(tmp_path, method):
    """Expected by hand: one parent, all elements kept, nothing rescaled, is its true ΔW."""
    adapter, base = written(tmp_path)
    options = Options(density=1.0) if "density" in METHODS[method].defaults else Options()

    merge([Source(adapter, 1.0)], method=method, rule=RankRule("max"), options=options, out=tmp_path / "out", base=base)

    W = load_file(base / "model.safetensors")["one.weight"].double().numpy()
    moved = W + deltas(adapter)["one"]
    m = load_file(adapter / "adapter_model.safetensors")[f"{PREFIX}one.lora_magnitude_vector"].double().numpy()
    wanted = m[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - W
    assert distance(deltas(tmp_path / "out")["one"], wanted) < 2e-6


@pytest.mark.parametrize("name", ["cat", "linear"])
def test_other_methods_ask_for_a_rank_first(tmp_path, name):
    adapter, base = written(tmp_path)

    with pytest.raises(RefusedError, match="give it a rank first \\(resize, with --base\\)") as caught:
        plan([Source(adapter, 1.0)], method=name, base=base)

    assert [finding.rule for finding in caught.value.findings] == ["merge-dora"]


def test_without_a_base_it_is_asked_for(tmp_path):
    adapter, _ = written(tmp_path)

    with pytest.raises(RefusedError, match="give --base PATH") as caught:
        plan([Source(adapter, 1.0)], method="svd")

    assert [finding.rule for finding in caught.value.findings] == ["merge-dora"]


UNFIT = {
    "another shape": ({"base_shape": (13, 16)}, r"\[13, 16\], expected \[16, 12\] or \[12, 16\]"),
    "no such tensor": ({"name": "other"}, "the base holds no tensor one.weight"),
    "quantized": ({"base_dtype": torch.int8}, "I8, no floating dtype"),
    "magnitudes": ({"rows": 11}, "11 magnitudes for one, expected 12"),
    "replicated": ({"layer_replication": [[0, 2], [1, 2]]}, "replicated layers"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_base_that_does_not_fit(tmp_path, case):
    changes, message = UNFIT[case]
    adapter, base = written(tmp_path, **changes)

    with pytest.raises(RefusedError, match=message) as caught:
        plan([Source(adapter, 1.0)], method="svd", base=base)

    assert [finding.rule for finding in caught.value.findings] == ["merge-dora"]


def test_a_module_without_magnitudes(tmp_path):
    adapter, base = written(tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors[f"{PREFIX}one.lora_magnitude_vector"]
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})

    with pytest.raises(RefusedError, match="no magnitude vector for one"):
        plan([Source(adapter, 1.0)], method="svd", base=base)


def test_no_base_at_the_path(tmp_path):
    adapter, _ = written(tmp_path)

    with pytest.raises(BaseError, match="no such file or folder"):
        plan([Source(adapter, 1.0)], method="svd", base=tmp_path / "nowhere")


def test_a_base_in_shards_behind_links_with_its_models_prefix(tmp_path):
    """As a hub cache holds it; the adapter says `model.layers.0.q`, the checkpoint `layers.0.q`."""
    name = "model.layers.0.q"
    tensors = linear(name, inputs=16, outputs=12, rank=4, seed=1)
    tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = normal(3, 12).abs() + 1
    adapter = write_adapter(tmp_path / "a", tensors, use_dora=True)
    base, blobs = tmp_path / "base", tmp_path / "blobs"
    base.mkdir()
    blobs.mkdir()
    shards = {"layers.0.q.weight": normal(4, 12, 16, dtype=torch.bfloat16), "norm.weight": normal(5, 16)}
    for place, (key, value) in enumerate(shards.items()):
        save_file({key: value}, blobs / str(place))
        (base / f"model-{place}.safetensors").symlink_to(blobs / str(place))
    index = {"weight_map": {key: f"model-{place}.safetensors" for place, key in enumerate(shards)}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))

    merge([Source(adapter, 1.0)], method="svd", rule=RankRule("max"), out=tmp_path / "out", base=base)

    W = shards["layers.0.q.weight"].double().numpy()
    moved = W + deltas(adapter)[name]
    m = tensors[f"{PREFIX}{name}.lora_magnitude_vector"].double().numpy()
    wanted = m[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - W
    assert distance(deltas(tmp_path / "out")[name], wanted) < 2e-6


def test_a_large_module_is_sketched_near_the_best(tmp_path):
    """Above 512 on both sides no whole decomposition is made for the sum."""
    tensors = linear("one", inputs=540, outputs=530, rank=4, seed=1)
    W = normal(4, 530, 540, scale=0.02)
    moved = (
        W.double()
        + 9 / 4 * tensors[f"{PREFIX}one.lora_B.weight"].double() @ tensors[f"{PREFIX}one.lora_A.weight"].double()
    )
    tensors[f"{PREFIX}one.lora_magnitude_vector"] = (moved.norm(dim=1) * 1.1).float()
    adapter = write_adapter(tmp_path / "a", tensors, use_dora=True)
    (tmp_path / "base").mkdir()
    save_file({"one.weight": W}, tmp_path / "base" / "model.safetensors")

    merge([Source(adapter, 1.0)], method="svd", rule=RankRule(4), out=tmp_path / "out", base=tmp_path / "base")

    wanted = (1.1 * moved - W.double()).numpy()
    least = distance(best(wanted, 4), wanted)
    assert distance(deltas(tmp_path / "out")["one"], wanted) <= 1.005 * least
