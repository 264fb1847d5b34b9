"""Checkpoints with drawn adapters in them, loaded by plain transformers: what PEFT computes beside the base."""

from __future__ import annotations

import copy

import pytest

from engine.errors import RefusedError
from engine.materialize import Request, Source, materialize
from tests.engine.materialize.matching.judge import beside, close
from tests.engine.model import drawn

DRAWS = {draw.name: draw for draw in drawn.draws(24)}
SLICE = [name for name, draw in DRAWS.items() if draw.number < 3 and draw.family != "unet"]


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """The folder of each family's base."""
    folder = tmp_path_factory.mktemp("bases")

    def of(family):
        if not (folder / family).exists():
            drawn.base(family).save_pretrained(folder / family)
        return folder / family

    return of


def expected_of(draw, folders):
    """What PEFT gives with the adapters on and nothing merged; merged where a bias of an earlier adapter goes through
    a later one's DoRA, which no merge does, PEFT's own included.
    """
    wrapped = beside(drawn.base(draw.family), folders)
    first, second = draw.settings
    if draw.mode == "several" and first.get("lora_bias") and second.get("use_dora"):
        return drawn.out(wrapped.merge_and_unload(adapter_names=["n0", "n1"]), draw.family)
    return drawn.out(drawn.readable(wrapped), draw.family)


def adds_a_bias_to_none(model, settings):
    """Whether such an adapter has a bias for a module without one."""
    named = tuple(f".{target}" for target in settings["target_modules"])
    targets = [module for name, module in model.named_modules() if f".{name}".endswith(named)]
    assert targets
    return bool(settings.get("lora_bias")) and any(getattr(module, "bias", None) is None for module in targets)


def agrees(draw, base, folder):
    settings = draw.settings[: 2 if draw.mode == "several" else 1]
    folders = [
        drawn.saved(drawn.peft_model(copy.deepcopy(drawn.base(draw.family)), one, seed), folder / f"a{seed}")
        for seed, one in enumerate(settings, 1)
    ]
    request = Request(base=base, sources=tuple(map(Source, folders)))
    if any(adds_a_bias_to_none(drawn.base(draw.family), one) for one in settings):
        with pytest.raises(RefusedError, match="the adapter adds a bias and the module has none"):
            materialize(request, folder / "out")
        return
    materialize(request, folder / "out")
    found = drawn.out(type(drawn.base(draw.family)).from_pretrained(folder / "out"), draw.family)
    close(found, expected_of(draw, folders))


@pytest.mark.parametrize("name", SLICE)
def test_a_merged_checkpoint_computes_what_the_adapters_do_beside_the_base(name, bases, tmp_path):
    agrees(DRAWS[name], bases(DRAWS[name].family), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRAWS if name not in SLICE])
def test_every_other_draw(name, bases, tmp_path):
    agrees(DRAWS[name], bases(DRAWS[name].family), tmp_path)
