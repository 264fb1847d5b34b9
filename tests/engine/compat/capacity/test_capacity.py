"""The room a server needs: every expected number is worked out by hand beside it."""

from __future__ import annotations

import pytest

from engine.compat.capacity.launch import server_command
from engine.compat.capacity.plan import Forcing, Smaller, Wishes, need_of, plan_capacity
from engine.compat.capacity.pools import find_pool
from engine.compat.capacity.rooms import adapter_rooms, base_rooms, embedding_rooms
from engine.errors import OptionError
from engine.format.facts import BaseFacts, ModuleFacts
from tests.engine.compat.shaped import facts_of, llama_base, llama_modules

# one layer of Llama-3-8B, inputs + outputs: q 8192, k 5120, v 5120, o 8192, gate 18432, up 18432, down 18432 = 81,920
LAYER = 8192 + 5120 + 5120 + 8192 + 18432 + 18432 + 18432
TABLE = 128256 + 4096


def room(*adapters, engine="vllm", base=None, **wishes):
    pool = find_pool(engine)
    needs = [need_of(f"t/a{n}@1", facts, pool) for n, facts in enumerate(adapters)]
    return plan_capacity(needs, pool, base=base, wishes=Wishes(**wishes))


def small(r=16, **fields):
    return facts_of(
        {"model.layers.0.self_attn.q_proj": (10, 6), "model.layers.0.self_attn.v_proj": (2, 6)}, r, **fields
    )


@pytest.mark.parametrize(
    ("rank", "bucket"),
    [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (17, 32), (64, 64), (65, 128), (257, 320), (320, 320), (321, 512)],
)
def test_vllm_takes_the_smallest_of_its_ranks(rank, bucket):
    assert room(small(rank)).max_lora_rank == bucket


@pytest.mark.parametrize("engine", ["sglang", "own"])
def test_engines_without_fixed_ranks_take_the_rank_itself(engine):
    assert room(small(9), small(12), engine=engine).max_lora_rank == 12


def test_a_rank_above_all_of_vllm_is_refused():
    with pytest.raises(OptionError, match=r"rank 513: vllm can be started with 512 at most"):
        room(small(513))


def test_a_slot_of_vllm_has_every_layer_of_the_model_and_its_tables():
    """At r16 in 16 bits: 32 layers are 41,943,040 numbers, 84 MB, as is known of this model; its two tables are 8.5 MB."""
    found = room(facts_of(llama_modules("q_proj", "v_proj")), base=llama_base())

    assert 32 * LAYER * 16 == 41_943_040
    assert found.slot_bytes == (41_943_040 + 2 * TABLE * 16) * 2 == 92_356_608
    assert (found.exact, found.layers) == (True, 7 * 32 + 2)


def test_a_slot_of_an_architecture_without_adapted_tables_has_the_layers_alone():
    found = room(small(), base=llama_base(architecture="MistralForCausalLM"))

    assert found.slot_bytes == 83_886_080


def test_vllm_told_its_targets_gives_room_to_them_and_to_what_lies_in_one_slot_with_them():
    """q_proj brings k_proj and v_proj: (8192 + 5120 + 5120) x 32 layers x rank 16 x 2 bytes."""
    found = room(facts_of(llama_modules("q_proj")), base=llama_base())

    assert found.targets == ("q_proj",)
    assert found.targets_slot_bytes == 18432 * 32 * 16 * 2


def test_a_slot_of_sglang_has_the_targets_in_every_layer_whole_stacks():
    """q and o: q brings k and v, o stands alone: 26,624 x 32 x 16 x 2."""
    found = room(facts_of(llama_modules("q_proj", "o_proj", layers=1)), engine="sglang", base=llama_base())

    assert found.slot_bytes == (18432 + 8192) * 32 * 16 * 2
    assert (found.exact, found.targets, found.targets_slot_bytes) == (True, ("o_proj", "q_proj"), None)


def test_sglang_keeps_a_slot_for_requests_without_an_adapter():
    found = room(small(), small(), engine="sglang")

    assert (found.max_loras, found.max_cpu_loras, found.base_slot) == (3, 2, True)
    assert found.device_bytes == 3 * found.slot_bytes


def test_sglang_makes_the_buffers_of_both_tables_twice_where_both_are_targets():
    """0.5.23 makes all tables that are targets once for the one and once for the other."""
    one, both = (
        room(facts_of({"lm_head": (128256, 4096)}, target_modules=names), engine="sglang", base=llama_base())
        for names in (["lm_head"], ["lm_head", "embed_tokens"])
    )

    assert one.slot_bytes == TABLE * 16 * 2
    assert both.slot_bytes == 4 * one.slot_bytes


def test_without_the_base_the_adapters_layers_are_the_least():
    """(10 + 6) + (2 + 6) numbers a rank, at 16 in 2 bytes."""
    found = room(small(8), small(16))

    assert (found.slot_bytes, found.exact, found.targets_slot_bytes) == (24 * 16 * 2, False, None)


def test_layers_of_several_adapters_are_counted_once():
    other = facts_of({"model.layers.0.self_attn.q_proj": (10, 6), "model.layers.0.mlp.up_proj": (20, 6)})

    assert room(small(), other).slot_bytes == (16 + 8 + 26) * 16 * 2


def test_a_quantised_base_tells_no_shapes():
    found = room(small(), base=llama_base(quantization="bitsandbytes"))

    assert (found.slot_bytes, found.exact) == (24 * 16 * 2, False)


def test_our_engine_needs_the_union_of_the_layers_and_nothing_of_the_base():
    found = room(small(5), engine="own", base=llama_base())

    assert (found.slot_bytes, found.exact, found.max_lora_rank) == (24 * 5 * 2, True, 5)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_bytes_follow_the_served_dtype(dtype, size):
    """The two factors of q and v at rank 3: (10 + 6 + 2 + 6) x 3 = 72 numbers; as stored they have 4 bytes."""
    found = room(small(3), dtype=dtype)

    assert (found.adapters[0].stored_bytes, found.adapters[0].served_bytes) == (72 * 4, 72 * size)
    assert found.slot_bytes == 24 * 8 * size
    assert found.host_bytes == 72 * size


def test_an_unknown_dtype_is_refused():
    with pytest.raises(OptionError, match="int8"):
        room(small(), dtype="int8")


def test_all_adapters_lie_on_the_device_unless_told():
    assert (room(small(), small(), small()).max_loras, room(small(), small(), max_loras=1).max_loras) == (3, 1)


def test_the_host_keeps_all_whatever_lies_on_the_device():
    found = room(small(1), small(2), small(4), max_loras=1)

    assert (found.max_cpu_loras, found.host_bytes) == (3, 24 * (1 + 2 + 4) * 2)


def test_vllm_keeps_at_least_as_many_on_the_host_as_on_the_device():
    """max_cpu_loras below max_loras is refused by its LoRAConfig."""
    assert room(small(), max_loras=5).max_cpu_loras == 5


def test_memory_says_how_many_fit():
    """A slot takes 24 x 16 x 2 = 768 bytes."""
    adapters = [small() for _ in range(5)]

    assert room(*adapters, memory=768 * 3 + 767).max_loras == 3
    assert room(*adapters, memory=10**9).max_loras == 5
    assert room(*adapters, memory=10**9, max_loras=2).max_loras == 2


@pytest.mark.parametrize(("engine", "least"), [("vllm", 768), ("sglang", 2 * 768)])
def test_memory_for_no_adapter_is_refused_with_what_one_takes(engine, least):
    with pytest.raises(OptionError, match=rf"{least - 1} bytes: expected at least {least}"):
        room(small(), engine=engine, memory=least - 1)


def test_who_forces_the_rank_up_and_what_it_would_be_without():
    """Alone above 16: without it 16 does; without the modules of rank 40 its other ones, of 10, need 16 too."""
    name = "model.layers.0.self_attn.q_proj"
    large = small(10, ranks={name: 40}, rank_pattern={"q_proj": 40})
    found = room(small(16), large, small(4))

    assert found.max_lora_rank == 64
    assert found.forced_by == (Forcing("t/a1@1", 40, "rank_pattern.q_proj", name, 1, 16, 16),)
    assert found.without == Smaller(16, 24 * 16 * 2)


def test_what_is_left_of_an_adapter_counts_with_the_others():
    name = "model.layers.0.self_attn.q_proj"
    large = small(20, ranks={name: 40}, rank_pattern={"q_proj": 40})

    assert [(one.without, one.without_modules) for one in room(small(4), large).forced_by] == [(8, 32)]


def test_two_that_force_it_hold_the_rank_for_each_other():
    found = room(small(40), small(8), small(50))

    assert [(one.ref, one.rank, one.without, one.without_modules) for one in found.forced_by] == [
        ("t/a0@1", 40, 64, 64),
        ("t/a2@1", 50, 64, 64),
    ]
    assert found.without == Smaller(8, 24 * 8 * 2)


def test_one_adapter_of_one_rank_leaves_nothing():
    found = room(small(16))

    assert [(one.without, one.without_modules) for one in found.forced_by] == [(None, None)]
    assert found.without is None


def test_nobody_forces_the_smallest_rank():
    assert room(small(1)).forced_by == ()


def test_vllm_goes_by_the_config_although_no_module_has_that_rank():
    """r is 64 and every module's pattern says 8: PEFTHelper compares the largest of the numbers in the file."""
    names = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
    hollow = small(64, ranks=dict.fromkeys(names, 8), rank_pattern={"q_proj": 8, "v_proj": 8})
    forcing = room(hollow).forced_by[0]

    assert (forcing.rank, forcing.where, forcing.module, forcing.modules, forcing.without_modules) == (
        64,
        "r",
        None,
        0,
        8,
    )
    assert room(hollow, engine="own").max_lora_rank == 8
    assert room(hollow, engine="sglang").max_lora_rank == 64


def test_sglang_passes_over_a_pattern_that_no_module_has():
    spare = small(8, rank_pattern={"nothing": 64})

    assert (room(spare, engine="sglang").max_lora_rank, room(spare).max_lora_rank) == (8, 64)


def test_no_adapters_are_no_plan():
    with pytest.raises(OptionError, match="no adapter"):
        room()


def test_widths_of_every_kind_of_module():
    """Per unit of rank: in + out; vocabulary + dimension; in x kernel + out; experts x (in + out)."""
    kinds = [
        ModuleFacts("lin", "linear", 4, 8, 2, (4, 6), (10, 4), "F32", "a", "b"),
        ModuleFacts("emb", "embedding", 4, 8, 2, (4, 100), (12, 4), "F32", "a", "b"),
        ModuleFacts("conv", "conv2d", 4, 8, 2, (4, 3, 5, 5), (7, 4, 1, 1), "F32", "a", "b"),
        # rank 4 for each of 3 experts: A (12, 6), B (10, 12)
        ModuleFacts("moe", "parameter", 4, 8, 2, (12, 6), (10, 12), "F32", "a", "b", configured_rank=4),
        ModuleFacts("attn.out_proj.base_layer", "linear", 1, 1, 1, (1, 2), (3, 1), "F32", "a", "b"),
    ]

    assert adapter_rooms(kinds) == {"lin": 16, "emb": 112, "conv": 82, "moe": 48, "attn.out_proj": 5}


def test_layers_of_a_base_that_get_room():
    """No norms, tables, biases or towers; experts count each; a fused gate and up has two A factors."""
    base = BaseFacts(
        "sha256:0",
        {
            "wte.weight": (50, 8),
            "wpe.weight": (20, 8),
            "h.0.attn.c_attn.weight": (8, 24),
            "h.0.attn.c_attn.bias": (24,),
            "h.0.ln_1.weight": (8,),
            "h.0.mlp.gate.weight": (4, 8),
            "h.0.mlp.experts.gate_up_proj": (4, 8, 30),
            "h.0.mlp.experts.down_proj": (4, 15, 8),
            "visual.blocks.0.qkv.weight": (9, 9),
        },
        config={"hidden_size": 8},
    )

    assert base_rooms(base) == {
        "h.0.attn.c_attn": 32,
        "h.0.mlp.gate": 12,
        "h.0.mlp.experts.gate_up_proj": 4 * (8 + 8 + 30),
        "h.0.mlp.experts.down_proj": 4 * 23,
    }


def test_a_tied_output_is_as_wide_as_the_table_it_shares():
    tied = BaseFacts("sha256:0", {"wte.weight": (50, 8)})

    assert embedding_rooms(tied) == {"embed_tokens": 58, "lm_head": 58}
    assert embedding_rooms(BaseFacts("sha256:0", {})) == {}


def test_the_command_of_vllm_names_adapters_and_quotes_what_a_shell_would_read():
    found = room(small(9), small(4))
    line = server_command("vllm", found, "/models/a b", {"t/a": "t/a@1"}, dtype="float16")

    assert line == (
        "vllm serve '/models/a b' --enable-lora --max-lora-rank 16 --max-loras 2 --max-cpu-loras 2 --lora-dtype float16"
        ' --lora-modules t/a="$(adapters pull t/a@1 --format quiet)"'
    )


def test_the_command_of_sglang_names_its_targets():
    """max_loaded_loras must not be below max_loras_per_batch, which counts the base."""
    line = server_command("sglang", room(small(9), engine="sglang"), None, {})

    assert line == (
        "python -m sglang.launch_server --model-path BASE --enable-lora --max-lora-rank 9 --max-loras-per-batch 2"
        " --max-loaded-loras 2 --lora-target-modules q_proj v_proj"
    )


def test_a_command_for_very_many_names_none():
    many = {f"t/a{n}": f"t/a{n}@1" for n in range(17)}

    assert "--lora-modules" not in (server_command("vllm", room(small()), "b", many) or "")


def test_our_engine_has_no_server_to_start():
    assert server_command("own", room(small(), engine="own"), "b", {}) is None
