"""A packed weight is written by blocks of rows as bitsandbytes packs all of it at once, whatever its shape."""

import json

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit
from safetensors.torch import load_file

from engine.materialize.changes.lowrank import LowRank
from engine.materialize.folder.shards import shards
from engine.materialize.quantising.forms import packed_form, same_form
from engine.materialize.stored import blocks
from engine.materialize.stored.place import Place, plain
from engine.materialize.tasks.execute import execute
from engine.materialize.tasks.task import Task
from tests.engine.materialize.arrays import saved
from tests.engine.materialize.encodings.library import four_bits, stored

NAME = "layer.weight"
SHAPES = [(1, 1), (3, 21), (5, 64), (40, 96), (33, 130), (64, 64), (130, 33), (700, 24)]


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05


def written(tmp_path, source, form, **options):
    """What one task writes: the tensors of its file, and what it tells of them."""
    (shard,) = shards(tmp_path, "out", [form.described(NAME)], 10**9)
    with shard.file.open("wb") as file:
        file.write(shard.header)
        file.truncate(shard.size)
    task = Task(NAME, source, form.placed(NAME, shard.places), turned=form.turned, **options)
    told = execute(task)
    return load_file(shard.file), told


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of rows for every shape but the smallest."""
    monkeypatch.setattr(blocks, "BLOCK", 200)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_4_bits(tmp_path, shape, kind, turned, nested):
    W = drawn(*shape)
    source = plain(saved(tmp_path / "base", {NAME: W})[NAME])
    form = packed_form(source, kind, "F16", nested=nested, turned=turned)
    found, told = written(tmp_path, source, form)
    codes, state = quantize_4bit(
        (W.T if turned else W).contiguous(), quant_type=kind, compress_statistics=nested, blocksize=64
    )
    state.dtype = torch.float16
    expected = {NAME: codes} | {f"{NAME}.{role}": part for role, part in state.as_dict(packed=True).items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "quant_state" in name:
            assert bytes(found[name]).rstrip() == bytes(tensor)
        else:
            assert torch.equal(found[name], tensor)
    assert told.sums.elements == 0


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_8_bits(tmp_path, shape, turned):
    W = drawn(*shape)
    W[0] = 0
    source = plain(saved(tmp_path / "base", {NAME: W})[NAME])
    found, _ = written(tmp_path, source, packed_form(source, "int8", "F16", nested=False, turned=turned))
    codes, scales, _ = int8_vectorwise_quant((W.T if turned else W).contiguous().half())
    assert torch.equal(found[NAME], codes)
    assert torch.equal(found["layer.SCB"], scales)
    assert found["layer.weight_format"].item() == 0


def test_the_text_has_room_for_the_longest_average_and_is_filled_with_spaces(tmp_path):
    """Scales of 1.1754943508222875e-38 each have that average; one of 1 has `1.0`."""
    texts = []
    for number in (1.1754943508222875e-38, 1.0):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = plain(saved(folder / "base", {NAME: torch.full((2, 64), number)})[NAME])
        found, _ = written(folder, source, packed_form(source, "nf4", "F32", nested=True))
        texts.append(bytes(found[f"{NAME}.quant_state.bitsandbytes__nf4"]))
        assert json.loads(texts[-1])["nested_offset"] == number
    assert len(texts[0]) == len(texts[1])
    assert texts[0].endswith(b"1.1754943508222875e-38}")
    assert texts[1].endswith(b"1.0}" + b" " * 19)


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3"])
def test_a_dtype_that_the_library_does_not_give_becomes_one_that_it_does(tmp_path, dtype):
    source = plain(Place(tmp_path / "none", 0, dtype, (2, 64)))
    assert packed_form(source, "nf4", dtype, nested=True).stored.dtype == {"F64": "F32", "F8_E4M3": "BF16"}[dtype]


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("blocksize", [64, 256])
def test_a_weight_packed_again_keeps_its_blocks_its_nesting_and_its_storage(tmp_path, blocksize, storage):
    tensors, meant = four_bits(NAME, drawn(12, 128), blocksize=blocksize, nested=False, storage=storage)
    source = stored(tmp_path / "base", tensors)[NAME]
    factors = saved(tmp_path / "adapter", {"A": drawn(2, 128), "B": drawn(12, 2) * 20})
    changes = (LowRank(factors["A"], factors["B"], 1.5),)
    found, told = written(tmp_path, source, same_form(source, changed=True), changes=changes)
    total = meant + 1.5 * (drawn(12, 2) * 20) @ drawn(2, 128)
    codes, state = quantize_4bit(total, blocksize=blocksize, quant_type="nf4", quant_storage=storage)
    assert found.keys() == tensors.keys()
    assert torch.equal(found[NAME], codes)
    assert torch.equal(found[f"{NAME}.absmax"], state.absmax)
    assert told.sums.elements == 12 * 128


@pytest.mark.parametrize("nested", [True, False])
def test_numbers_on_the_grid_stay_where_they_are(tmp_path, nested):
    """A change of nothing: codes and single scales keep every byte, nested scales their numbers within their own grid."""
    tensors, _ = four_bits(NAME, drawn(96, 64), nested=nested)
    source = stored(tmp_path / "base", tensors)[NAME]
    factors = saved(tmp_path / "adapter", {"A": torch.zeros(1, 64), "B": torch.zeros(96, 1)})
    changes = (LowRank(factors["A"], factors["B"], 1.0),)
    found, told = written(tmp_path, source, same_form(source, changed=True), changes=changes)
    assert torch.equal(found[NAME], tensors[NAME])
    assert told.sums.moved == 0
    if not nested:
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
