"""What adapters of several types do together beside the weights is what they do in them, in either order.

In float64, so that no rounding hides a difference. PEFT combines no types, so formulas judge.
"""

import itertools

import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file

from engine.materialize import Request, Source, materialize
from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.oracle import quiet
from tests.engine.model.live import llama

DRAW = torch.Generator().manual_seed(6)
LINES = ["one", "turned", "last"]
MODELS = {
    "lines": (oracle.Linears, LINES, torch.randn(4, 5, 12, generator=DRAW, dtype=torch.float64)),
    "convolutions": (oracle.Plane, ["last"], torch.randn(4, 3, 6, 7, generator=DRAW, dtype=torch.float64)),
}
SHARES = {"low": 0.7, "in": -0.4, "out": 1.6}


def folders(at, name):
    """LoRA, IA3 of inputs and IA3 of outputs, on the same layers."""
    model, targets, _ = MODELS[name]
    configs = {
        "low": LoraConfig(r=3, lora_alpha=5, target_modules=targets, bias="all" if name == "lines" else "none"),
        "in": IA3Config(target_modules=targets, feedforward_modules=targets),
        "out": IA3Config(target_modules=targets, feedforward_modules=[]),
    }
    return {one: oracle.saved(at / one, oracle.seeded(model), config) for one, config in configs.items()}


@pytest.mark.parametrize("order", list(itertools.permutations(SHARES)), ids="-".join)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_beside_the_weights_and_in_them_is_the_same(name, order, tmp_path):
    model, _, x = MODELS[name]
    live = oracle.seeded(model).double()
    runtime = Runtime(live)
    for one, folder in folders(tmp_path, name).items():
        runtime.load(one, folder)
        runtime.set_scale(one, SHARES[one])
    base = live(x)
    runtime.activate(order)
    beside = live(x)
    assert (beside - base).abs().max() > 0.01
    runtime.activate(None)
    for one in SHARES:
        runtime.set_scale(one, 1.0)

    runtime.merge(order, [SHARES[one] for one in order])

    torch.testing.assert_close(live(x), beside, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_a_scale_of_inputs_acts_on_what_came_before_it_alone(tmp_path):
    """y = (W + D)(s∘x) with the scale second, W(s∘x) + Dx with it first; as rows of a batch alone, each its own."""
    live = oracle.seeded(oracle.Linears).double()
    held = folders(tmp_path, "lines")
    runtime = Runtime(live)
    for one in ("low", "in"):
        runtime.load(one, held[one])
    factors, scale = runtime.state_dict("low"), runtime.state_dict("in")["base_model.model.last.ia3_l"].double()
    A, B = (factors[f"base_model.model.last.lora_{side}.weight"].double() for side in "AB")
    seen = {}
    live.last.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    W, D = live.last.weight, 5 / 3 * B @ A
    for order in (["low", "in"], ["in", "low"]):
        runtime.activate(order)
        found = runtime(MODELS["lines"][2])
        x = seen["x"]
        expected = (x * scale.flatten()) @ W.T + (x * scale.flatten() if order[0] == "low" else x) @ D.T
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [("copy", "bias"), ("bias", "copy")], ids="-".join)
@torch.no_grad()
def test_a_copy_of_a_bias_and_anothers_own_bias_add_up(order, tmp_path):
    """One adapter has q_proj in full, the other a bias for it: copy + share·(own - base's), wherever it is."""
    model = llama(attention_bias=True).double()
    path = "model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    configs = {
        "copy": LoraConfig(r=2, target_modules=["v_proj"], modules_to_save=["q_proj"]),
        "bias": LoraConfig(r=2, target_modules=["v_proj"], bias="all"),
    }
    shares = {"copy": 1.0, "bias": 0.3}
    held = {one: oracle.saved(tmp_path / one, model, config) for one, config in configs.items()}
    with quiet():
        model.save_pretrained(tmp_path / "base")
    copy, own = (load_file(held[one] / "adapter_model.safetensors") for one in ("copy", "bias"))
    before = model.get_submodule(path).bias.clone()
    expected = copy[f"base_model.model.{path}.bias"].double()
    expected = expected + 0.3 * (own[f"base_model.model.{path}.bias"].double() - before)
    runtime = Runtime(model)
    for one in order:
        runtime.load(one, held[one])
        runtime.set_scale(one, shares[one])
    runtime.activate(order)
    ids = torch.arange(8).reshape(2, 4)
    beside = model(ids).logits
    runtime.activate(None)
    runtime.set_scale("bias", 1.0)

    runtime.merge(order, [shares[one] for one in order])
    materialize(
        Request(base=tmp_path / "base", sources=tuple(Source(held[one], shares[one]) for one in order)),
        tmp_path / "out",
    )

    torch.testing.assert_close(model.get_submodule(path).bias.detach(), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(model(ids).logits, beside, rtol=1e-11, atol=1e-11)
    found = load_file(tmp_path / "out/model.safetensors")[f"{path}.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
