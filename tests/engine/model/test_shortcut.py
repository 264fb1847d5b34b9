"""torch's fused encoder layer calls none of its modules: an adapter there is refused, not left out in silence."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from engine.errors import RefusedError
from engine.model import Runtime
from tests.engine.model.kinds import oracle


def _encoder():
    torch.manual_seed(0)
    with_layers = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(with_layers, 2, enable_nested_tensor=False).eval()


@pytest.fixture
def slow_path():
    """The fast path off, and on again afterwards: it is torch's own switch for the whole process."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_an_adapter_that_would_have_no_effect_is_refused_with_the_way_out(tmp_path):
    model = _encoder()
    folder = oracle.saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["linear1"]))
    runtime = Runtime(model)

    with pytest.raises(RefusedError, match=r"layers\.0\.linear1: lies in a TransformerEncoderLayer") as refused:
        runtime.load("a", folder)

    assert [finding.rule for finding in refused.value.findings] == ["own-shortcut"] * 2
    assert refused.value.findings[0].fix == "torch.backends.mha.set_fastpath_enabled(False)"
    assert runtime.adapters == ()


def test_with_the_fast_path_off_it_runs_as_in_peft(tmp_path, slow_path):
    model, x = _encoder(), torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    folder = oracle.saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["linear1"]))
    with torch.inference_mode():
        expected = PeftModel.from_pretrained(_encoder(), folder)(x)
    runtime = Runtime(model)

    runtime.load("a", folder)
    runtime.activate("a")
    with torch.inference_mode():
        found = model(x)

    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(found, _encoder()(x))
