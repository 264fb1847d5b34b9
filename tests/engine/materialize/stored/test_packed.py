"""What lies beside packed codes is held against them before anything is planned."""

import json
import re

import pytest
import torch

from engine.errors import BaseError
from tests.engine.materialize.encodings.library import eight_bits, four_bits, stored

NAME = "block.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"


def numbers():
    return torch.linspace(-1, 1, 10 * 64).view(10, 64)


def text(value):
    return torch.tensor(list(value if isinstance(value, bytes) else json.dumps(value).encode()), dtype=torch.uint8)


def test_weights_keep_the_order_of_their_first_tensor_and_others_stay_themselves(tmp_path):
    tensors = {"a": torch.ones(2), "z": torch.ones(0, 3)} | four_bits(NAME, numbers())[0]
    tensors |= eight_bits("other.weight", numbers())[0]
    found = stored(tmp_path / "w", tensors)
    assert {name: weight.encoding for name, weight in found.items()} == {
        "a": "plain", "z": "plain", NAME: "nf4", "other.weight": "int8"
    }  # fmt: skip
    assert set(found[NAME].parts) == {
        "", "absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4"
    }  # fmt: skip
    assert set(found["other.weight"].parts) == {"", "SCB", "weight_format"}
    assert found[NAME].shape == found["other.weight"].shape == (10, 64)


def test_8_bits_without_a_format_are_rows(tmp_path):
    tensors, _ = eight_bits(NAME, numbers())
    del tensors["block.weight_format"]
    assert set(stored(tmp_path / "w", tensors)[NAME].parts) == {"", "SCB"}


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("absmax", None, "is 4-bit, but block.weight.absmax is missing"),
        ("nested_absmax", None, "is 4-bit, but block.weight.nested_absmax is missing"),
        ("absmax", torch.zeros(9, dtype=torch.uint8), "expected U8 [10], found U8 [9]"),
        ("absmax", torch.zeros(10), "expected U8 [10], found F32 [10]"),
        ("nested_absmax", torch.zeros(2), "expected F32 [1], found F32 [2]"),
        ("nested_quant_map", torch.zeros(16), "expected F32 [256], found F32 [16]"),
        ("quant_map", torch.zeros(15), "expected F32 [16], found F32 [15]"),
        ("", torch.zeros(319, 1, dtype=torch.uint8), "expected U8 [320, 1], found U8 [319, 1]"),
    ],
)
def test_a_part_that_is_missing_or_does_not_fit_is_named(tmp_path, part, value, told):
    tensors, _ = four_bits(NAME, numbers())
    name = f"{NAME}.{part}" if part else NAME
    tensors.pop(name)
    with pytest.raises(BaseError, match=re.escape(told)):
        stored(tmp_path / "w", tensors | ({} if value is None else {name: value}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quant_type": "fp4"}, "no quant_state that bitsandbytes writes"),
        ({"blocksize": 48}, "no quant_state that bitsandbytes writes"),
        ({"blocksize": "64"}, "no quant_state that bitsandbytes writes"),
        ({"blocksize": 64.0}, "no quant_state that bitsandbytes writes"),
        ({"blocksize": [64]}, "no quant_state that bitsandbytes writes"),
        ({"dtype": "float64"}, "no quant_state that bitsandbytes writes"),
        ({"dtype": None}, "no quant_state that bitsandbytes writes"),
        ({"shape": None}, "its quant_state has no shape"),
        ({"shape": [10, -64]}, "its quant_state has no shape"),
        ({"shape": [True, 640]}, "its quant_state has no shape"),
        ({"shape": [10, 66]}, "expected U8 [330, 1], found U8 [320, 1]"),
        ({"nested_blocksize": 128}, "expected scales nested by 256"),
        ({"nested_offset": "0.1"}, "expected scales nested by 256"),
        ({"nested_offset": float("nan")}, "expected scales nested by 256"),
    ],
)
def test_a_state_that_the_library_does_not_write_is_refused(tmp_path, change, told):
    tensors, _ = four_bits(NAME, numbers())
    state = json.loads(bytes(tensors[STATE])) | change
    with pytest.raises(BaseError, match=re.escape(told)):
        stored(tmp_path / "w", tensors | {STATE: text(state)})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (text(b"{"), "a quant_state is no JSON"),
        (text(b"\xff\xfe"), "a quant_state is no JSON"),
        (text([1]), "a quant_state is no JSON object"),
        (torch.zeros(2**16 + 1, dtype=torch.uint8), "a quant_state is no text of at most 65536 bytes"),
        (torch.zeros(4), "a quant_state is no text of at most 65536 bytes"),
    ],
)
def test_a_state_that_is_no_text_is_refused(tmp_path, value, told):
    tensors, _ = four_bits(NAME, numbers())
    with pytest.raises(BaseError, match=told):
        stored(tmp_path / "w", tensors | {STATE: value})


def test_spaces_behind_a_state_are_none_of_it(tmp_path):
    tensors, _ = four_bits(NAME, numbers())
    tensors[STATE] = torch.cat([tensors[STATE], torch.full((7,), 32, dtype=torch.uint8)])
    assert stored(tmp_path / "w", tensors)[NAME].shape == (10, 64)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("block.SCB", torch.zeros(9), "one F32 scale per row beside it"),
        ("block.SCB", torch.zeros(10).half(), "one F32 scale per row beside it"),
        ("block.weight", torch.zeros(10, 64), "one F32 scale per row beside it"),
        ("block.weight_format", torch.tensor(2, dtype=torch.uint8), "8-bit weights in a format for one GPU"),
    ],
)
def test_8_bits_that_do_not_fit_are_named(tmp_path, name, value, told):
    tensors, _ = eight_bits(NAME, numbers())
    with pytest.raises(BaseError, match=told):
        stored(tmp_path / "w", tensors | {name: value})
