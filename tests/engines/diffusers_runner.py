"""diffusers' own loader reads adapters into a model; the model then computes. A process of its own, on the whole wheel.

`python -m tests.engines.diffusers_runner WHEEL-FOLDER PREFIX FLAVOUR=FOLDER[=MEANT]…` prints a JSON object: flavour ->
verdict. What it shall compute is what PEFT does with FOLDER, or with MEANT.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings

import torch

from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.oracle import TOKENS, computed_by_peft


def judged(name, folder, prefix, meant=None):
    from diffusers.loaders.peft import PeftAdapterMixin

    base = FLAVOURS[name][1]()
    base.__class__ = type("Model", (PeftAdapterMixin, type(base)), {"_hf_peft_config_loaded": False})
    try:
        base.load_lora_adapter(folder, prefix=prefix, weight_name="adapter_model.safetensors")
    except Exception:  # noqa: BLE001 - whatever it raises, it refuses
        return "refuses"
    with torch.no_grad():
        found = base.eval()(input_ids=TOKENS).logits
    expected = computed_by_peft(name, meant or folder)
    if expected is None:
        return None
    return "loads" if torch.allclose(expected, found, atol=2e-5) else "differs"


if __name__ == "__main__":
    wheel, prefix, *pairs = sys.argv[1:]
    sys.path.insert(0, wheel)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print(
        json.dumps(
            {name: judged(name, folder, prefix, *meant) for name, folder, *meant in (pair.split("=") for pair in pairs)}
        )
    )
