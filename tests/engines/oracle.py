"""What an adapter computes in PEFT, and what a model computes once an engine's factors are added to it."""

from __future__ import annotations

import warnings

import torch
from peft import PeftModel

from engine.compat.engines.check import check_for, verdict
from engine.format.adapter import read_adapter
from tests.engine.compat.engines.flavours import FLAVOURS

TOKENS = torch.tensor([[7, 9, 3, 4, 11, 20, 3, 2], [1, 5, 30, 31, 3, 4, 60, 8]])


def computed_by_peft(name, folder):
    """Logits of the flavour's base with the adapter, None where this PEFT cannot load it here."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(FLAVOURS[name][1](), folder).eval()
            return model(input_ids=TOKENS).logits
    except (ValueError, KeyError, ImportError, AssertionError, AttributeError, TypeError, RuntimeError):
        return None


def computed_with(name, deltas):
    """Logits of the flavour's base with the deltas added, None where one does not fit."""
    model = FLAVOURS[name][1]().eval()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for path, delta in deltas.items():
            if path in modules:
                if modules[path].weight.shape != delta.shape:
                    return None
                modules[path].weight += delta
        return model(input_ids=TOKENS).logits


def judged(name, folder, load):
    """`refuses`, `differs` or `loads`; None where PEFT cannot say what the function is. `load(folder)` gives deltas."""
    try:
        deltas = load(folder)
    except (ValueError, KeyError, RuntimeError, AssertionError, IndexError, NotImplementedError):
        return "refuses"
    expected, found = computed_by_peft(name, folder), computed_with(name, deltas)
    if expected is None:
        return None
    return "loads" if found is not None and torch.allclose(expected, found, atol=2e-5) else "differs"


def agrees(name, folder, target, loader):
    """Whether our table's verdict is what the engine's own loader comes to; the loader must refuse or differ where PEFT
    cannot say what the function is.
    """
    ours = verdict(check_for(read_adapter(folder), target), target)
    with loader as load:
        theirs = judged(name, folder, load)
    return ours in ("differs", "refuses") if theirs is None else ours == theirs
