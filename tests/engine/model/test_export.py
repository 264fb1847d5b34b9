"""What a runtime gives back of an adapter: PEFT's names, its own numbers, files that load anywhere."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from engine.errors import DestinationError, SourceGoneError, UnknownAdapterError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.test_replaced import Attention, Matrices, mixtral

IDS = torch.arange(18).reshape(3, 6)
WEIGHTS = "adapter_model.safetensors"


def _logits(model):
    with torch.inference_mode():
        return model(IDS).logits.clone()


CASES = {
    "linear": (llama, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 3}, "use_rslora": True}),
    "saved": (llama, {"modules_to_save": ["lm_head", "layers.0.mlp"]}),
    "repeated layers": (llama, {"layer_replication": [[0, 2], [1, 2]]}),
    "experts": (
        mixtral,
        {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "r": 3},
    ),
    "attention": (lambda: Attention(batch_first=True), {"target_modules": ["mha", "first"]}),
    "transposed experts": (
        lambda: Matrices(transposed=True),
        {"target_modules": [], "target_parameters": ["experts.up", "matrix.W"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_the_files_come_back(tmp_path, case):
    """Also where every module has room for more than the adapter's ranks."""
    make, config = CASES[case]
    model = make()
    folder = lora_folder(tmp_path / "a", model, **config)
    runtime = Runtime(model, target_rank=24)
    runtime.load("a", folder)

    runtime.save("a", tmp_path / "out")

    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert json.loads((tmp_path / "out/adapter_config.json").read_text()) == json.loads(
        (folder / "adapter_config.json").read_text()
    )
    tensors, original = runtime.state_dict("a"), load_file(folder / WEIGHTS)
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensors[name], original[name]) for name in original)


def test_half_precision_files_keep_their_dtype_and_bytes(tmp_path):
    model = llama()
    folder = lora_folder(tmp_path / "a", model)
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(halves, folder / WEIGHTS, metadata={"format": "pt"})
    runtime = Runtime(model)
    runtime.load("a", folder)

    runtime.save("a", tmp_path / "out")

    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_saved_adapter_loads_here_and_in_peft_with_equal_outputs(tmp_path):
    model = llama()
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", lora_folder(tmp_path / "a", model, modules_to_save=["norm"]))
    runtime.activate("a")
    runtime.set_scale("a", 1.0)
    expected = _logits(model)

    runtime.save("a", tmp_path / "out")
    runtime.load("b", tmp_path / "out")
    runtime.activate("b")

    assert torch.equal(_logits(model), expected)
    torch.testing.assert_close(
        _logits(PeftModel.from_pretrained(llama(), tmp_path / "out")), expected, rtol=1e-5, atol=1e-5
    )


def test_the_factor_of_set_scale_is_not_saved(tmp_path):
    model = llama()
    runtime = Runtime(model)
    folder = lora_folder(tmp_path / "a", model)
    runtime.load("a", folder)
    runtime.set_scale("a", 0.5)

    runtime.save("a", tmp_path / "out")

    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_embeddings_that_only_repeat_the_base_take_no_room_and_are_written_again(tmp_path):
    """PEFT writes the whole table beside the factors of `lm_head`."""
    model = llama()
    folder = lora_folder(tmp_path / "a", model, target_modules=["lm_head", "q_proj"])
    plain = lora_folder(
        tmp_path / "b", model, target_modules=["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    )
    assert "base_model.model.lm_head.base_layer.weight" in load_file(folder / WEIGHTS)
    runtime = Runtime(model)
    runtime.load("b", plain)
    before = runtime.status().device_bytes
    runtime.load("a", folder)
    head_factors = (64 + 32) * 4 * 4 * 9  # (out + in)·r·bytes·(slots + 1)

    runtime.save("a", tmp_path / "out")

    assert runtime.status().device_bytes - before == head_factors
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    runtime.save("a", tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "out" / WEIGHTS).read_bytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    model = llama()
    folder = lora_folder(tmp_path / "a", model)
    runtime = Runtime(model)
    runtime.load("a", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(DestinationError, match="exists; give the name of a new folder"):
        runtime.save("a", folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unknown_name_is_not_saved(tmp_path):
    with pytest.raises(UnknownAdapterError, match="no adapter 'a' is loaded; loaded: none"):
        Runtime(llama()).save("a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_was_dropped_and_whose_file_is_gone_is_named(tmp_path):
    model = llama()
    folder = lora_folder(tmp_path / "a", model)
    runtime = Runtime(model, host_bytes=0)
    runtime.load("a", folder)
    (folder / WEIGHTS).unlink()

    with pytest.raises(SourceGoneError, match="cannot be read again"):
        runtime.save("a", tmp_path / "out")

    assert not (tmp_path / "out").exists()
