"""A convolution is merged where, and only where, its kernel does what the adapter did beside it: A pads with zeros."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle


class Padded(nn.Module):
    """One convolution over seven places, in float64: what differs is no rounding."""

    def __init__(self, kernel, padding, mode):
        super().__init__()
        self.line = nn.Conv1d(3, 5, kernel, padding=padding, padding_mode=mode)

    def forward(self, x):
        return self.line(x)


X = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
MERGED = [
    (3, 1, "zeros"), (1, 1, "zeros"), (3, 0, "circular"), (3, "valid", "reflect"), (1, "same", "circular"),
    (1, 0, "replicate"),
]  # fmt: skip
REFUSED = [(3, 1, "circular"), (1, 1, "circular"), (1, 2, "reflect"), (3, "same", "replicate"), (2, 1, "reflect")]


def runtime_of(case, folder):
    torch.manual_seed(0)
    model = Padded(*case).double().eval()
    saved = oracle.saved(folder, model, LoraConfig(r=2, target_modules=["line"]))
    runtime = Runtime(model)
    runtime.load("a", saved)
    runtime.activate("a")
    torch.testing.assert_close(model(X), oracle.run(model_of(case, model), [saved], X), rtol=1e-6, atol=1e-6)
    return runtime


def model_of(case, model):
    twin = Padded(*case).double().eval()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("case", MERGED, ids=str)
@torch.no_grad()
def test_a_kernel_that_sees_nothing_else_is_merged(case, tmp_path):
    runtime = runtime_of(case, tmp_path / "a")
    beside = runtime(X)
    runtime.merge("a")
    torch.testing.assert_close(runtime(X), beside, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", REFUSED, ids=str)
@torch.no_grad()
def test_a_kernel_that_sees_other_values_than_zeros_is_refused(case, tmp_path):
    """Merged all the same, the results at the ends would be others: what the weight made so gives."""
    runtime = runtime_of(case, tmp_path / "a")
    beside, weight = runtime(X), runtime.model.line.weight
    with pytest.raises(RefusedError, match=rf"line: the base pads with {case[2]} values and A with zeros"):
        runtime.merge("a")
    assert torch.equal(runtime(X), beside)
    A, B = (runtime.state_dict("a")[f"base_model.model.line.lora_{side}.weight"].double() for side in "AB")
    runtime.activate(None)
    weight += 4 * torch.einsum("or,rik->oik", B[..., 0], A)  # alpha 8 / rank 2
    wrong = (runtime(X) - beside).abs().amax(dim=(0, 1))
    assert wrong[0] > 0.01
    assert wrong[len(wrong) // 2] < 1e-6
