"""An adapter loaded from a file of images is, bit by bit, the adapter loaded from its folder."""

import pytest
import torch

from engine.materialize.hotswap import write_images
from tests.engine.materialize.hotswap.sets import config_alone, family_folders, mapped, runtime
from tests.engine.model.drawn import base, out
from tests.engine.model.states import same_state, state

pytestmark = pytest.mark.filterwarnings("ignore")
LLAMA, GPT2 = {"r": 2, "target_modules": ["q_proj", "down_proj"]}, {"r": 2, "target_modules": ["c_attn", "mlp.c_proj"]}
ALONE = {
    "mixed ranks and targets": ("llama", LLAMA, {"r": 5, "target_modules": ["q_proj", "v_proj"]}),
    "rsLoRA and patterns": (
        "llama",
        {"r": 3, "use_rslora": True, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 2}, "target_modules": ["q_proj", "v_proj"]},
        LLAMA,
    ),
    "DoRA": ("llama", LLAMA | {"use_dora": True}, LLAMA | {"r": 4}),
    "Conv1D": ("gpt2", GPT2, GPT2 | {"r": 3}),
    "DoRA on Conv1D": ("gpt2", GPT2 | {"use_dora": True}, GPT2 | {"r": 3}),
    "a bias of B": ("llama", LLAMA | {"lora_bias": True}, LLAMA),
    "modules to save": ("llama", LLAMA | {"modules_to_save": ["lm_head", "norm"]}, LLAMA),
    "a classifier to save": ("bert", {"r": 2, "target_modules": ["query"], "modules_to_save": ["classifier"]}, {"r": 1, "target_modules": ["value"]}),
    "convolutions": ("unet", {"r": 2, "target_modules": ["conv1", "to_q"]}, {"r": 3, "target_modules": ["conv2", "to_out.0"], "use_dora": True}),
    "repeated layers": ("llama", LLAMA | {"layer_replication": [[0, 2], [1, 2]]}, LLAMA | {"layer_replication": [[0, 2], [1, 2]], "r": 3}),
}  # fmt: skip
WITH_BASE = {
    "tokens": ("llama", LLAMA | {"trainable_token_indices": {"embed_tokens": [1, 5]}}, LLAMA),
    "tokens of a tied table": ("gpt2", GPT2 | {"trainable_token_indices": {"wte": [3, 4, 5]}}, GPT2),
    "own biases": ("gpt2", GPT2 | {"bias": "all"}, GPT2),
    "a parameter": ("llama", {"r": 2, "target_modules": [], "target_parameters": ["q_proj.weight"]}, LLAMA | {"target_modules": ["down_proj"]}),
    "DoRA": ("llama", LLAMA | {"use_dora": True}, LLAMA | {"r": 4}),
}  # fmt: skip
CASES = [pytest.param(*ALONE[name], False, id=name) for name in ALONE]
CASES += [pytest.param(*WITH_BASE[name], True, id=f"{name}, on the base") for name in WITH_BASE]


def held_equal(family, adapters, file, **room):
    """Two runtimes with the set, from folders and from the file; the slots are the same bits."""
    by_folder = runtime(base(family), adapters, **room)
    by_file = runtime(base(family), dict.fromkeys(adapters, file), **room)
    assert same_state(state(by_folder), state(by_file))
    return by_folder, by_file


@pytest.mark.parametrize(("family", "first", "second", "on_base"), CASES)
def test_slots_scales_and_results_are_the_same_bits(family, first, second, on_base, tmp_path):
    adapters = family_folders(tmp_path, family, first, second)
    known = config_alone(base(family), tmp_path / "base") if on_base else None

    images = write_images(adapters, tmp_path / "set", base=known, target_rank=6)

    assert all(one.exact for one in images.images.values())
    by_folder, by_file = held_equal(family, adapters, tmp_path / "set", target_rank=6)
    assert all(mapped(by_file, name) for name in adapters)
    plain = out(by_folder, family)
    for name in adapters:
        by_folder.activate(name)
        by_file.activate(name)
        assert torch.equal(out(by_file, family), out(by_folder, family))
        assert not torch.equal(out(by_file, family), plain)
        expected = by_folder.state_dict(name)
        found = by_file.state_dict(name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("room", [{}, {"target_rank": 9}, {"slots": 1}, {"host_bytes": 0}], ids=str)
def test_a_runtime_with_other_room_lays_the_numbers_out_anew(room, tmp_path):
    adapters = family_folders(tmp_path, "llama", LLAMA, LLAMA | {"r": 4, "use_dora": True})
    write_images(adapters, tmp_path / "set", target_rank=6)
    by_folder = runtime(base("llama"), adapters, **room)
    by_file = runtime(base("llama"), dict.fromkeys(adapters, tmp_path / "set"), **room)

    for name in adapters:
        by_folder.activate(name)
        by_file.activate(name)
        torch.testing.assert_close(out(by_file, "llama"), out(by_folder, "llama"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_image_of_another_dtype_than_the_runtime_is_rounded_as_its_folder_is(dtype, tmp_path):
    """The folders hold float32, so do the images; what derives from them is computed before it is rounded."""
    adapters = family_folders(tmp_path, "llama", LLAMA, LLAMA | {"r": 4, "use_dora": True})
    write_images(adapters, tmp_path / "set", target_rank=6)

    _, by_file = held_equal("llama", adapters, tmp_path / "set", target_rank=6, dtype=dtype)

    assert mapped(by_file, "a") is (dtype == torch.float32)


def test_an_image_narrower_than_the_folder_says_so_and_is_that_much_rounded(tmp_path):
    adapters = family_folders(tmp_path, "llama", LLAMA)

    images = write_images(adapters, tmp_path / "set", dtype="bf16")

    by_file, by_folder = runtime(base("llama"), {"a": tmp_path / "set"}), runtime(base("llama"), adapters)
    assert not images.images["a"].exact
    found, expected = by_file.state_dict("a"), by_folder.state_dict("a")
    assert all(torch.equal(found[key], one.bfloat16().float()) for key, one in expected.items())
    assert not all(torch.equal(found[key], one) for key, one in expected.items())


def test_embeddings_that_repeat_the_base_are_left_out_with_its_weights_at_hand(tmp_path):
    settings = {"r": 2, "target_modules": ["embed_tokens", "q_proj"]}
    adapters = family_folders(tmp_path, "llama", settings, LLAMA)
    base("llama").save_pretrained(tmp_path / "base")

    write_images(adapters, tmp_path / "set", base=tmp_path / "base", target_rank=6)

    _, by_file = held_equal("llama", adapters, tmp_path / "set", target_rank=6)
    assert mapped(by_file, "a")
