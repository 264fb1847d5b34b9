"""Linear layers with everything that adapters put on them, against PEFT on the same files."""

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig

from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle

TARGETS = ["one", "turned", "square", "last"]


def _lora(**changes):
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **changes})


CASES = {
    "plain": [_lora(), _lora(r=2), _lora(r=3, target_modules=["turned"])],
    "rslora": [_lora(use_rslora=True), _lora(r=6, use_rslora=True)],
    "patterns": [_lora(rank_pattern={"one": 7, "turned": 1}, alpha_pattern={"last": 3}), _lora()],
    "lora_bias": [_lora(lora_bias=True, target_modules=["one", "turned"]), _lora()],
    "bias lora_only": [_lora(bias="lora_only"), _lora()],
    "bias all": [_lora(bias="all", target_modules=["last"]), _lora()],
    "dora": [_lora(use_dora=True), _lora(), _lora(use_dora=True, r=2)],
    "dora and bias": [_lora(use_dora=True, bias="lora_only"), _lora(use_dora=True, r=2)],
    "ia3": [
        IA3Config(target_modules=TARGETS, feedforward_modules=["turned", "last"]),
        IA3Config(target_modules=["one", "last"], feedforward_modules=["last"]),
    ],
    "adalora": [
        AdaLoraConfig(init_r=6, lora_alpha=5, target_modules=TARGETS, total_step=10),
        AdaLoraConfig(init_r=3, lora_alpha=5, target_modules=["one"], total_step=10),
    ],
}

X = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    model = oracle.seeded(oracle.Linears)
    root = tmp_path_factory.mktemp("case")
    folders = {
        f"n{place}": oracle.saved(root / f"n{place}", model, config, seed=place)
        for place, config in enumerate(CASES[request.param])
    }
    return request.param, folders, {name: oracle.run(model, [folder], X) for name, folder in folders.items()}


@pytest.fixture
def live(case):
    model = oracle.seeded(oracle.Linears)
    with torch.no_grad():
        base = model(X)
    runtime = Runtime(model)
    for name, folder in case[1].items():
        runtime.load(name, folder)
    return runtime, base


def close(found, expected):
    """Within the rounding of four layers in float32, whose sums PEFT takes in another order."""
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-5)


@torch.no_grad()
def test_one_adapter_gives_what_peft_gives(case, live):
    runtime, base = live
    for name, expected in case[2].items():
        runtime.activate(name)

        close(runtime(X), expected)
        assert not torch.allclose(expected, base, atol=1e-2)


@torch.no_grad()
def test_several_adapters_give_what_peft_gives(case, live):
    runtime, _ = live
    names = list(case[1])
    runtime.activate(names)

    close(runtime(X), oracle.run(oracle.seeded(oracle.Linears), list(case[1].values()), X))


@torch.no_grad()
def test_each_row_goes_through_its_own_adapter_and_base_rows_keep_their_bits(case, live):
    runtime, base = live
    names = [*list(case[1])[:2][::-1], "__base__", next(iter(case[1]))]

    found = runtime(X, adapter_names=names)

    for row, name in enumerate(names):
        if name == "__base__":
            assert torch.equal(found[row], base[row])
        else:
            close(found[row], case[2][name][row])
