"""What `adapters check --for own` says beforehand is what the runtime does: loads as PEFT computes, or refuses."""

import warnings

import pytest
import torch
from peft import PeftModel

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import parse_target
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.model.runtime import Runtime
from tests.engine.compat.engines.flavours import FLAVOURS, make

IDS = torch.tensor([[1, 5, 3, 4, 9, 7]])


def _peft_logits(model, folder):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, folder).eval()(IDS).logits


@pytest.mark.parametrize("name", FLAVOURS)
def test_the_verdict_is_what_the_runtime_does(name, tmp_path):
    folder, model_of, own = make(name, tmp_path), FLAVOURS[name][1], parse_target("own")
    said = verdict(check_for(read_adapter(folder), own), own)
    model = model_of().eval()
    runtime = Runtime(model)

    if said == "refuses":
        with pytest.raises(RefusedError):
            runtime.load("a", folder)
        return
    runtime.load("a", folder)
    runtime.activate("a")
    with torch.inference_mode():
        found = model(IDS).logits

    torch.testing.assert_close(found, _peft_logits(model_of().eval(), folder), rtol=1e-6, atol=1e-6)
    assert said == "loads"


def test_a_rank_above_the_rooms_is_refused_by_both(tmp_path):
    folder = make("rank 64", tmp_path / "a")

    assert [one.rule for one in check_for(read_adapter(folder), parse_target("own:target_rank=32"))][:1] == ["own-rank"]
    with pytest.raises(RefusedError, match="32"):
        Runtime(FLAVOURS["rank 64"][1]().eval(), target_rank=32).load("a", folder)
