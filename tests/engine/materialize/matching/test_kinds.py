"""Every kind of layer with everything that adapters put on it, on modules that are no transformers model.

Judges: PEFT beside the base and PEFT's own merge for one adapter, the live engine for several with weights.
"""

import copy
import warnings

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.materialize.matching.judge import close, merged, out, tensors
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import INPUTS


class Plane(nn.Module):
    """Convolutions over two dimensions, none of which pads with other numbers than zeros."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, (3, 5), padding="same")
        self.groups = nn.Conv2d(8, 12, 3, stride=(2, 1), padding=1, groups=4)
        self.last = nn.Conv2d(12, 6, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.groups(torch.tanh(self.one(x)))))


def lora(targets, **changes):
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(targets), **changes})


def ada(targets, rank):
    return AdaLoraConfig(init_r=rank, lora_alpha=5, target_modules=list(targets), total_step=10)


LINES, TABLES = ["one", "turned", "last"], ["words", "scaled"]
CASES = {
    "linear": (oracle.Linears, [lora(LINES), lora(LINES, r=2)]),
    "rslora": (oracle.Linears, [lora(LINES, use_rslora=True), lora(LINES, r=6, use_rslora=True)]),
    "patterns": (oracle.Linears, [lora(LINES, rank_pattern={"one": 7}, alpha_pattern={"last": 3}), lora(["turned"])]),
    "lora_bias": (oracle.Linears, [lora(["one", "turned"], lora_bias=True), lora(LINES)]),
    "bias all": (oracle.Linears, [lora(["last"], bias="all"), lora(LINES)]),
    "dora": (oracle.Linears, [lora(LINES, use_dora=True), lora(LINES, use_dora=True, r=2)]),
    "dora and lora": (oracle.Linears, [lora(LINES), lora(LINES, use_dora=True, r=2)]),
    "dora and bias": (oracle.Linears, [lora(LINES, use_dora=True, bias="lora_only"), lora(LINES, use_dora=True)]),
    "ia3": (
        oracle.Linears,
        [
            IA3Config(target_modules=LINES, feedforward_modules=["turned", "last"]),
            IA3Config(target_modules=["one", "last"], feedforward_modules=["last"]),
        ],
    ),
    "ia3 and lora": (oracle.Linears, [lora(LINES), IA3Config(target_modules=LINES, feedforward_modules=["last"])]),
    "ia3 and bias": (
        oracle.Linears,
        [IA3Config(target_modules=["one"], feedforward_modules=[]), lora(["one"], bias="lora_only")],
    ),
    "adalora": (oracle.Linears, [ada(LINES, 6), ada(["one"], 3)]),
    "embedding": (oracle.Embeddings, [lora([*TABLES, "last"]), lora(["words"], r=2)]),
    "embedding dora": (oracle.Embeddings, [lora(TABLES, use_dora=True), lora(TABLES, use_dora=True, r=2)]),
    "tokens": (
        oracle.Embeddings,
        [
            lora(["last"], trainable_token_indices={"words": [3, 7, 3], "scaled": [19]}),
            lora(["words"], trainable_token_indices={"scaled": [1, 19]}),
        ],
    ),
    "conv1d": (oracle.Line, [lora(["one", "last"], r=8), lora(["one"], r=3, lora_bias=True)]),
    "conv1d dora": (oracle.Line, [lora(["one", "last"], use_dora=True), lora(["one"], r=8)]),
    "conv2d": (Plane, [lora(["one", "last"], r=8), lora(["one"], lora_bias=True)]),
    "conv2d dora": (Plane, [lora(["one", "last"], use_dora=True, bias="all"), lora(["one"], r=8)]),
    "conv2d ia3": (
        Plane,
        [
            IA3Config(target_modules=["one", "groups", "last"], feedforward_modules=["groups"]),
            IA3Config(target_modules=["last"], feedforward_modules=[]),
        ],
    ),
    "conv2d adalora": (Plane, [ada(["last"], 6), ada(["last"], 3)]),
    "conv3d": (oracle.Space, [lora(["one"]), lora(["one"], r=2, use_dora=True)]),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A model, its base on disk, its adapters, an input."""
    kind, configs = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    model = oracle.seeded(kind)
    folders = [oracle.saved(folder / f"a{at}", model, config, seed=at + 1) for at, config in enumerate(configs)]
    (folder / "base").mkdir()
    save_file(model.state_dict(), folder / "base" / "model.safetensors")
    return model, folder / "base", folders, INPUTS.get(kind, INPUTS[oracle.Plane])


def loaded(model, folder):
    found = copy.deepcopy(model)
    found.load_state_dict(tensors(folder))
    return found


def test_one_adapter_gives_what_peft_gives_beside_the_base_and_merged(case, tmp_path):
    model, base, folders, x = case
    before = out(model, x)
    for folder in folders:
        found = out(loaded(model, merged(base, [folder], tmp_path / folder.name)), x)
        close(found, oracle.run(model, [folder], x), 1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = PeftModel.from_pretrained(copy.deepcopy(model), folder).eval().merge_and_unload()
        close(found, out(again, x), 1e-5)
        assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("weights", [(0.7, -0.4), pytest.param((-0.4, 1.0), marks=pytest.mark.slow)])
def test_several_in_weights_give_what_the_live_engine_merges(case, tmp_path, weights):
    model, base, folders, _ = case
    runtime = Runtime(copy.deepcopy(model))
    for folder in folders:
        runtime.load(folder.name, folder)
    taken = [(folder.name, weight) for folder, weight in zip(folders, weights, strict=True) if weight]
    runtime.merge([name for name, _ in taken], [weight for _, weight in taken])
    found = tensors(merged(base, folders, tmp_path / "out", list(weights)))
    for name, one in runtime.model.state_dict().items():
        close(found[name], one)


def test_a_weight_of_nothing_keeps_every_bit(case, tmp_path):
    _, base, folders, _ = case
    found = tensors(merged(base, folders, tmp_path / "out", [0.0, 0.0]))
    assert all(torch.equal(found[name], one) for name, one in tensors(base).items())


@pytest.mark.parametrize("kind", [oracle.Line, oracle.Plane])
def test_groups_whose_change_no_weight_has_are_refused_by_name(tmp_path, kind):
    model = oracle.seeded(kind)
    folder = oracle.saved(tmp_path / "a", model, lora(["groups", "last"]))
    (tmp_path / "base").mkdir()
    save_file(model.state_dict(), tmp_path / "base" / "model.safetensors")
    with pytest.raises(RefusedError, match="groups: ΔW crosses the 4 groups of the convolution") as refused:
        merged(tmp_path / "base", [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["merge-convolution"]


class Turned(nn.Module):
    """A square Conv1D of transformers, which no shape tells from a Linear."""

    def __init__(self):
        super().__init__()
        self.c_proj = Conv1D(10, 10)

    def forward(self, x):
        return self.c_proj(x)


@pytest.mark.parametrize("config", [lora(["c_proj"]), IA3Config(target_modules=["c_proj"], feedforward_modules=[])])
def test_a_square_weight_of_an_unknown_family_is_turned_as_the_adapter_says(tmp_path, config):
    model, x = oracle.seeded(Turned), torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    config.fan_in_fan_out = True
    folder = oracle.saved(tmp_path / "a", model, config)
    (tmp_path / "base").mkdir()
    save_file(model.state_dict(), tmp_path / "base" / "model.safetensors")
    found = loaded(model, merged(tmp_path / "base", [folder], tmp_path / "out"))
    close(out(found, x), oracle.run(model, [folder], x))
