"""A base whose weights are stored as no encoding here is refused by the name of its quantisation."""

import json
import re
from inspect import signature

import pytest
import torch
from safetensors.torch import save_file
from transformers import CompressedTensorsConfig, FineGrainedFP8Config, Mxfp4Config

from engine.errors import RefusedError
from engine.materialize.stored.checkpoint import read_checkpoint

WEIGHT = {"layer.weight": torch.ones(2, 2)}


def base(folder, tensors, config=None):
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("gptq", "give the full-precision checkpoint that it was made from"),
        ("awq", "give the full-precision checkpoint"),
        ("mxfp4", "load it with Mxfp4Config(dequantize=True), save_pretrained it, and give that folder"),
        ("fp8", "load it with FineGrainedFP8Config(dequantize=True)"),
        ("compressed-tensors", "load it with CompressedTensorsConfig(dequantize=True)"),
        ("a-method-of-tomorrow", "give the full-precision checkpoint"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_another_method_is_refused_by_its_name_with_what_to_do(tmp_path, method, instead, nested):
    section = {"quantization_config": {"quant_method": method, "bits": 4}}
    config = {"text_config": {"model_type": "llama", **section}} if nested else section
    with pytest.raises(RefusedError, match=f"weights stored as {method} are not read.*{re.escape(instead)}"):
        read_checkpoint(base(tmp_path, WEIGHT, config))


def test_what_to_do_names_classes_that_transformers_has():
    for kind in (Mxfp4Config, FineGrainedFP8Config, CompressedTensorsConfig):
        assert "dequantize" in signature(kind).parameters


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("layer.qweight", torch.int32, "gptq or awq"),
        ("layer.qzeros", torch.int32, "gptq or awq"),
        ("layer.g_idx", torch.int32, "gptq"),
        ("layer.weight_scale_inv", torch.float32, "fp8"),
        ("layer.weight_scale", torch.float32, "fp8 or compressed-tensors"),
        ("layer.weight_packed", torch.int32, "compressed-tensors"),
        ("mlp.experts.down_proj_blocks", torch.uint8, "mxfp4"),
        ("layer.SCB", torch.float32, "bitsandbytes, without the codes"),
        ("layer.weight.absmax", torch.float32, "bitsandbytes, without a quant_state"),
        ("other.weight", torch.int8, "whole numbers without a scale"),
        ("other.weight", torch.uint8, "whole numbers without a scale"),
    ],
)
def test_tensors_of_other_encodings_are_known_by_name_where_no_config_tells(tmp_path, name, dtype, told):
    tensors = {"norm.weight": torch.ones(2), name: torch.ones(2, 1).to(dtype)}
    with pytest.raises(RefusedError, match=f"stored as {told} are not read \\({name}\\)"):
        read_checkpoint(base(tmp_path, tensors))


@pytest.mark.parametrize(
    "section", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"load_in_8bit": True}], ids=["named", "flags"]
)
def test_the_librarys_own_config_is_read(tmp_path, section):
    found = read_checkpoint(base(tmp_path, WEIGHT, {"quantization_config": section}))
    assert list(found.tensors) == ["layer.weight"]


def test_a_config_that_names_no_method_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="an unnamed quantisation"):
        read_checkpoint(base(tmp_path, WEIGHT, {"quantization_config": {"bits": 3}}))
