"""vLLM's own configuration check and weight loader, taken out of a release."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch

from tests.engines.extracted import modules_of

MODULES = ["vllm.lora.peft_helper", "vllm.lora.utils", "vllm.lora.lora_weights", "vllm.lora.lora_model"]
GIVEN = {
    "vllm.utils.torch_utils": {"PIN_MEMORY": False},
    "vllm.utils.platform_utils": {"is_pin_memory_available": lambda: False},
}
# What a Llama of vLLM expects: its linear layers, unpacked, and its embeddings.
EXPECTED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}


@contextmanager
def loader_of(release, *, max_lora_rank=16, vocabulary=64):
    """A function from a folder to the weights' changes, by module."""
    with modules_of("vllm", release, MODULES, given=GIVEN) as (helper, _, _, model):

        def load(folder):
            config = helper.PEFTHelper.from_local_dir(str(folder), 128)
            config.validate_legal(SimpleNamespace(max_lora_rank=max_lora_rank, bias_enabled=False))
            loaded = model.LoRAModel.from_local_checkpoint(
                str(folder), EXPECTED, config, device="cpu", lora_model_id=1, model_vocab_size=vocabulary
            )
            return {name: _delta(layer, name) for name, layer in loaded.loras.items()}

        yield load


def _delta(layer, name):
    if layer.lora_b.shape[1] != layer.lora_a.shape[0] or layer.lora_a.dim() != 2:
        return torch.empty(0)  # the engine copies them into its buffers unseen; no weight has this shape
    delta = layer.scaling * (layer.lora_b @ layer.lora_a)
    return delta.T if name.endswith("embed_tokens") else delta
