"""The runtime against PEFT over configurations drawn from a seed: every family, alone, together and mixed by row."""

import copy

import pytest
import torch

from engine.model.runtime import Runtime
from tests.engine.model.drawn import FAMILIES, base, draws, out, peft_model, readable, saved

PER_FAMILY = 27
IN_SUITE = (0, 4, 8, 13)
"""These of each family run in the suite, every mode among them; all of them in the long run."""


def _case(draw):
    marks = [] if draw.number in IN_SUITE else [pytest.mark.slow]
    return pytest.param(draw, id=draw.name, marks=marks)


DRAWS = draws(PER_FAMILY)


def _close(found, expected):
    """float32 through a whole model: sums are taken in another order than PEFT's."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * max(1.0, expected.abs().max().item()))


def _both(model, folders):
    """PEFT with both adapters active."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, folders["a"], adapter_name="a")
    wrapped.load_adapter(folders["b"], adapter_name="b")
    wrapped.base_model.set_adapter(["a", "b"])
    return readable(wrapped)


def test_there_are_more_than_two_hundred_over_every_family():
    assert len(DRAWS) == 216 and len({draw.name for draw in DRAWS}) == 216
    assert (
        {draw.family for draw in DRAWS}
        == FAMILIES.keys()
        == {"llama", "gpt2", "opt", "bert", "t5", "vit", "whisper", "unet"}
    )
    told = " ".join(draw.told for draw in DRAWS)
    assert all(
        feature in told
        for feature in ("dora", "lorabias", "bias", "saved", "tokens", "rslora", "patterns", "table", "conv")
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("draw", [_case(draw) for draw in DRAWS])
def test_a_drawn_configuration_gives_what_peft_gives(tmp_path, draw):
    plain = out(base(draw.family), draw.family)
    folders, expected = {}, {"__base__": plain}
    for name, settings in zip("ab", draw.settings, strict=True):
        wrapped = peft_model(copy.deepcopy(base(draw.family)), settings, seed=ord(name))
        expected[name] = out(wrapped, draw.family)
        assert (expected[name] - plain).abs().max() > 1e-3 * plain.abs().max()
        folders[name] = saved(wrapped, tmp_path / name)
    runtime = Runtime(copy.deepcopy(base(draw.family)))
    for name in "a" if draw.mode == "single" else "ab":
        runtime.load(name, folders[name])

    if draw.mode == "single":
        runtime.activate("a")
        _close(out(runtime, draw.family), expected["a"])
    elif draw.mode == "several":
        runtime.activate(["a", "b"])
        _close(out(runtime, draw.family), out(_both(copy.deepcopy(base(draw.family)), folders), draw.family))
    else:
        names = ["b", "__base__", "a"]
        found = out(runtime, draw.family, adapter_names=names)
        assert torch.equal(found[1], plain[1])
        for row in (0, 2):
            _close(found[row], expected[names[row]][row])
    runtime.activate(None)
    assert torch.equal(out(runtime, draw.family), plain)
