"""The room that vLLM's and SGLang's own code makes equals what is planned: their buffers, on the meta device."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import torch

from engine.compat.capacity.plan import Wishes, need_of, plan_capacity
from engine.compat.capacity.pools import find_pool
from tests.engine.compat.shaped import LLAMA, facts_of, llama_base, llama_modules
from tests.engines.extracted import modules_of
from tests.engines.releases import files_of

pytestmark = pytest.mark.engines

LAYERS, RANK, SLOTS = 2, 16, 3
LINEAR, COLUMNS, TABLE, HEAD = (
    f"vllm.lora.layers.{name}"
    for name in ("base_linear", "column_parallel_linear", "vocab_parallel_embedding", "logits_processor")
)
PACKED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]
SHAPES = {name.rpartition(".")[2]: shape for name, shape in LLAMA.items()}
CONFIG = SimpleNamespace(max_lora_rank=RANK, fully_sharded_loras=False, lora_dtype=torch.bfloat16)


@pytest.mark.parametrize("release", ["0.13.0", "0.24.0", "0.33.0"])
def test_vllm_can_be_started_with_these_ranks(release, network):
    text = files_of("vllm", release, ["vllm/config/lora.py"])["vllm/config/lora.py"]
    ranks = next(
        node.value.slice
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MaxLoRARanks"
    )

    assert find_pool("vllm").buckets == ast.literal_eval(ranks)


def size_of(*stacks):
    tensors = [one for stack in stacks for one in (stack if isinstance(stack, tuple) else (stack,))]
    return sum(one.numel() * one.element_size() for one in tensors)


def room_of_vllm(release):
    """Bytes that the layers of a Llama of this release make for all slots."""
    with modules_of("vllm", release, [LINEAR, COLUMNS, TABLE, HEAD]) as (linear, columns, table, head):
        layer, made = {"tp_size": 1, "device": "meta"}, 0
        for names in PACKED:
            sides = tuple(SHAPES[name][0] for name in names)
            packed = SimpleNamespace(**layer, n_slices=len(names), output_slices=sides, input_size=SHAPES[names[0]][1])
            columns.MergedColumnParallelLinearWithLoRA.create_lora_weights(packed, SLOTS, CONFIG)
            made += LAYERS * size_of(packed.lora_a_stacked, packed.lora_b_stacked)
        for name in ("o_proj", "down_proj"):
            outputs, inputs = SHAPES[name]
            row = SimpleNamespace(
                **layer, n_slices=1, output_size=outputs, input_size=inputs, base_layer=linear.RowParallelLinear()
            )
            linear.BaseLinearLayerWithLoRA.create_lora_weights(row, SLOTS, CONFIG)
            made += LAYERS * size_of(row.lora_a_stacked, row.lora_b_stacked)
        weight = SimpleNamespace(device="meta")
        base = SimpleNamespace(org_vocab_size=128256, vocab_size=128256, embedding_dim=4096, weight=weight)
        for kind in (table.VocabParallelEmbeddingWithLoRA, head.LogitsProcessorWithLoRA):
            one = SimpleNamespace(base_layer=base, hidden_size=4096, device="meta", sharded_to_full_mapping=None)
            kind.create_lora_weights(one, SLOTS, CONFIG)
            made += size_of(one.lora_a_stacked, one.lora_b_stacked)
    return made


@pytest.mark.parametrize("release", ["0.33.0"])
def test_vllm_makes_as_much_room_as_planned(release, network):
    pool = find_pool("vllm")
    adapter = need_of("t/a@1", facts_of(llama_modules("q_proj", layers=1), RANK), pool)
    found = plan_capacity([adapter], pool, base=llama_base(layers=LAYERS), wishes=Wishes(max_loras=SLOTS))

    assert found.device_bytes == room_of_vllm(release)


def room_of_sglang(release, targets):
    """Bytes of all buffers of the memory pool of a Llama for these targets, for SLOTS of which one is the base's."""
    utils, pool = "sglang.srt.lora.utils", "sglang.srt.lora.mem_pool"
    with modules_of("sglang", release, [utils, pool]) as (names, memory):
        config = SimpleNamespace(
            hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128, intermediate_size=14336,
            num_hidden_layers=LAYERS, vocab_size=128256,
        )  # fmt: skip
        model = type("Model", (), {"config": config, "modules": list, "named_modules": list})()
        model.parameters = lambda: iter([torch.zeros(0, device="meta")])
        made = object.__new__(memory.LoRAMemoryPool)
        made.__dict__.update(
            base_hf_config=config, num_layer=LAYERS, max_loras_per_batch=SLOTS, dtype=torch.bfloat16, tp_size=1,
            tp_rank=0, attn_tp_size=1, moe_tp_size=1, moe_use_local_expert_ids=False, lora_added_tokens_size=0,
            max_lora_rank=RANK, target_modules=names.get_normalized_target_modules(targets),
            experts_shared_outer_loras=False, lm_head_shard_indices=None, A_buffer={}, B_buffer={},
            embedding_A_buffer={}, embedding_B_buffer={}, lm_head_A_buffer={}, lm_head_B_buffer={},
            new_embeddings_buffer={},
        )  # fmt: skip
        made.init_buffers(model)
        layers = [one for buffer in (made.A_buffer, made.B_buffer) for stack in buffer.values() for one in stack]
        tables = (made.embedding_A_buffer, made.embedding_B_buffer, made.lm_head_A_buffer, made.lm_head_B_buffer)
        return size_of(*layers, *(one for table in tables for one in table.values()))


@pytest.mark.parametrize(
    "targets",
    [["q_proj", "o_proj"], ["up_proj", "gate_proj", "down_proj"], ["lm_head"], ["embed_tokens", "lm_head", "v_proj"]],
)
def test_sglang_makes_as_much_room_as_planned(targets, network):
    pool = find_pool("sglang")
    adapter = need_of("t/a@1", facts_of(llama_modules(layers=1), RANK, target_modules=targets), pool)
    only = type(adapter)(adapter.ref, adapter.ranks, adapter.modules, frozenset(targets), 0, 0)
    found = plan_capacity([only], pool, base=llama_base(layers=LAYERS), wishes=Wishes(max_loras=SLOTS - 1))

    assert found.device_bytes == room_of_sglang("0.5.23", targets)
