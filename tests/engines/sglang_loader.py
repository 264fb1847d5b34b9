"""SGLang's own configuration, checks, stacking and memory pool, taken out of a release."""

from __future__ import annotations

import re
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from safetensors import safe_open

from tests.engine.compat.engines.flavours import llama
from tests.engines.extracted import modules_of

PARTS = ("layers.utils.common", "lora.lora_config", "lora.utils", "lora.lora", "lora.mem_pool", "lora.lora_manager")
MODULES = [f"sglang.srt.{part}" for part in PARTS]
STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class Loader:
    """What reads the weights file: the tensors in the file's order."""

    def __init__(self, *_):
        pass

    class Source(SimpleNamespace):
        def __init__(self, model_path, **_):
            super().__init__(path=model_path)

    def _get_weights_iterator(self, source):
        with safe_open(f"{source.path}/adapter_model.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 - an open file is no mapping
                yield name, file.get_tensor(name)


class Slices:
    """A wrapped layer on one device: nothing is cut."""

    def slice_lora_a_weights(self, weights, *_):
        return weights

    slice_lora_b_weights = slice_lora_a_weights


def _layer_id(name):
    found = re.search(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else None


GIVEN = {
    "sglang.srt.layers.utils": {"get_layer_id": _layer_id},
    "sglang.srt.model_loader.loader": {"DefaultModelLoader": Loader},
    "sglang.srt.lora.layers": {"FusedMoEWithLoRA": type("FusedMoEWithLoRA", (), {}), "BaseLayerWithLoRA": object},
}


@contextmanager
def loader_of(release, *, max_lora_rank=64):
    """A function from a folder to the weights' changes, by module."""
    with modules_of("sglang", release, MODULES, given=GIVEN) as found:
        engine = SimpleNamespace(
            **{name.rpartition(".")[2]: module for name, module in zip(MODULES, found, strict=True)}
        )
        assert engine.common.get_layer_id("model.layers.12.mlp") == _layer_id("model.layers.12.mlp")
        yield lambda folder: _load(folder, max_lora_rank, engine)


def _load(folder, most, engine):
    utils, pool = engine.utils, engine.mem_pool
    base = llama().config
    base.head_dim = base.hidden_size // base.num_attention_heads
    read = engine.lora_config.LoRAConfig(str(folder), base_vocab_size=base.vocab_size)
    targets = utils.get_normalized_target_modules(read.target_modules)
    if targets == {"all"}:
        targets = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    memory = _memory(base, targets, most, utils, pool)
    holder = SimpleNamespace(
        lora_refs={}, memory_pool=memory, attn_dp_enabled=False, num_pinned_loras=0, max_loras_per_batch=8
    )
    reference = SimpleNamespace(lora_name="one", lora_path=str(folder), pinned=False)
    engine.lora_manager.LoRAManager.validate_new_adapter(holder, read, reference)
    adapter = engine.lora.LoRAAdapter("one", read, base, None, None)
    adapter.initialize_weights()
    modules = [
        {name: Slices() for name in targets if name not in utils.EMBEDDING_NAMES} for _ in memory.A_buffer_layers
    ]
    pool.LoRAMemoryPool.load_lora_weight_to_buffer(memory, "one", 0, adapter, modules, Slices(), Slices())
    return _deltas(memory, base, adapter, utils.EMBEDDING_NAMES)


def _memory(base, targets, most, utils, pool):
    layers = range(base.num_hidden_layers)
    # the model class says nothing of its own, so the engine's default counts
    dims = {name: utils.get_hidden_dim(name, base, SimpleNamespace(), 0) for name in targets}
    inner = [name for name in targets if name not in utils.EMBEDDING_NAMES]

    def zeros(*shape):
        return torch.zeros(1, *shape)

    memory = SimpleNamespace(
        target_modules=set(targets), max_lora_rank=most, lora_added_tokens_size=0, num_layer=len(layers), tp_rank=0,
        tp_size=1, base_model=None, base_hf_config=base, strict_loading=False, experts_shared_outer_loras=False,
        new_embeddings_buffer={}, A_buffer_layers=layers,
        A_buffer={n: [zeros(most * utils.get_stacked_multiply(n), dims[n][0]) for _ in layers] for n in inner},
        B_buffer={n: [zeros(dims[n][1], most) for _ in layers] for n in inner},
        embedding_A_buffer={"embed_tokens": zeros(most, base.vocab_size)},
        embedding_B_buffer={"embed_tokens": zeros(base.hidden_size, most)},
        lm_head_A_buffer={"lm_head": zeros(most, base.hidden_size)},
        lm_head_B_buffer={"lm_head": zeros(base.vocab_size, most)},
        _get_maybe_cached_weight_for_transfer=lambda _cache, _key, weight: weight,
    )  # fmt: skip
    memory.can_support = lambda config: pool.LoRAMemoryPool.can_support(memory, config)
    return memory


def _deltas(memory, base, adapter, embeddings):
    found, targets, rank, scaling = {}, memory.target_modules, adapter.config.r, adapter.scaling
    for name in targets:
        if name in embeddings:
            continue
        for layer in range(base.num_hidden_layers):
            a, b = memory.A_buffer[name][layer][0], memory.B_buffer[name][layer][0]
            parts = STACKS.get(name, (name,))
            block = "self_attn" if name in ("qkv_proj", "o_proj") else "mlp"
            for index, part in enumerate(parts):
                rows = slice(index * b.shape[0] // len(parts), (index + 1) * b.shape[0] // len(parts))
                own = a[index * rank : (index + 1) * rank]
                found[f"model.layers.{layer}.{block}.{part}"] = scaling * b[rows, :rank] @ own
    if "embed_tokens" in targets:
        a, b = memory.embedding_A_buffer["embed_tokens"][0], memory.embedding_B_buffer["embed_tokens"][0]
        found["model.embed_tokens"] = scaling * (b @ a).T
    if "lm_head" in targets:
        found["lm_head"] = scaling * memory.lm_head_B_buffer["lm_head"][0] @ memory.lm_head_A_buffer["lm_head"][0]
    return found
