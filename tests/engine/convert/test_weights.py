"""What torch.save writes is described as torch loads it."""

from __future__ import annotations

import io
from collections import OrderedDict

import pytest
import torch
from torch import nn

from engine.convert.weights import inspect
from engine.errors import NotLoadableError

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip
TYPED = [dtype for dtype in DTYPES if not str(dtype).startswith(("torch.float8", "torch.uint")) or dtype is torch.uint8]


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return memoryview(file.getvalue())


def both(value):
    return [saved(value, _use_new_zipfile_serialization=new) for new in (True, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_that_safetensors_holds(dtype):
    found = inspect(saved({"a": torch.ones(3, 2).to(dtype)}), "x").tensors["a"]

    assert (found.dtype, found.shape, found.stride, found.size) == (DTYPES[dtype], (3, 2), (2, 1), 6 * dtype.itemsize)


@pytest.mark.parametrize("dtype", TYPED, ids=str)
def test_the_older_layout_of_every_dtype_it_knows(dtype):
    data = saved({"a": torch.ones(3).to(dtype)}, _use_new_zipfile_serialization=False)

    found = inspect(data, "x")

    assert (found.layout, found.tensors["a"].dtype) == ("legacy", DTYPES[dtype])


def test_views_slices_and_transposes():
    whole = torch.arange(24.0).reshape(4, 6)
    for data in both({"whole": whole, "turned": whole.t(), "part": whole[1:3, 2:], "row": whole[3], "none": whole[:0]}):
        found = inspect(data, "x")

        assert {name: (one.offset, one.shape, one.stride) for name, one in found.tensors.items()} == {
            "whole": (0, (4, 6), (6, 1)),
            "turned": (0, (6, 4), (1, 6)),
            "part": (8, (2, 4), (6, 1)),
            "row": (18, (6,), (1,)),
            "none": (0, (0, 6), (6, 1)),
        }
        assert found.scattered == ("turned", "part")
        assert found.tied == ("whole", "turned", "part", "row")


def test_storages_begin_where_their_bytes_are():
    for data in both({"a": torch.tensor([1.5, 2.5]), "b": torch.tensor([7], dtype=torch.int64)}):
        found = inspect(data, "x")
        at = {name: found.starts[one.storage.key] for name, one in found.tensors.items()}

        assert bytes(data[at["a"] : at["a"] + 8]) == b"\0\0\xc0\x3f\0\0\x20\x40"
        assert bytes(data[at["b"] : at["b"] + 8]) == b"\x07" + bytes(7)


def test_parameters_scalars_and_empty_tensors():
    value = {"p": nn.Parameter(torch.ones(2)), "frozen": nn.Parameter(torch.ones(1), requires_grad=False),
             "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 5)}  # fmt: skip
    for data in both(value):
        found = inspect(data, "x").tensors

        assert {name: one.shape for name, one in found.items()} == {
            "p": (2,), "frozen": (1,), "scalar": (), "empty": (0, 5),
        }  # fmt: skip


def test_the_state_of_a_module_with_its_metadata():
    """`state_dict()` is an OrderedDict with an attribute; batch norm adds a number as a tensor."""
    for data in both(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()):
        assert list(inspect(data, "x").tensors) == [
            "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        ]  # fmt: skip


def test_thousands_of_tensors_in_batches_of_a_thousand():
    found = inspect(saved({f"layer.{number}": torch.zeros(1) for number in range(3_000)}), "x")

    assert len(found.tensors) == 3_000
    assert list(found.tensors)[2_999] == "layer.2999"


@pytest.mark.parametrize("value", [{}, OrderedDict()])
def test_a_dictionary_without_tensors_is_no_adapters_weights(value):
    for data in both(value):
        with pytest.raises(
            NotLoadableError, match="x: not loadable here: an empty dictionary, expected one of tensors"
        ):
            inspect(data, "x")


def test_tensors_that_grow_beyond_the_file_are_refused():
    """Each of many names for one storage would be written on its own."""
    one = torch.zeros(100_000)

    with pytest.raises(NotLoadableError, match="tensors of 4,000,000 bytes in a file of"):
        inspect(saved({str(number): one.view(100_000) for number in range(10)}), "x")


def with_attribute():
    tensor = torch.zeros(2)
    tensor.mine = 1
    return tensor


OTHER = {
    "a model": (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "an attribute": ({"a": with_attribute()}, "torch._tensor._rebuild_from_type_v2"),
    "a buffer": ({"a": nn.Buffer(torch.zeros(2))}, "torch._tensor._rebuild_from_type_v2"),
    "a conjugate": ({"a": torch.zeros(2, dtype=torch.complex64).conj()}, "torch._utils._rebuild_tensor_v2"),
    "a meta tensor": ({"a": torch.zeros(2, device="meta")}, "torch._utils._rebuild_meta_tensor_no_storage"),
    "a sparse tensor": ({"a": torch.eye(3).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    "a complex number": ({"a": torch.zeros(1), "b": 1j}, "__builtin__.complex"),
    "a device": ({"a": torch.device("cpu")}, "torch.device"),
    "a size": ({"a": torch.Size([1])}, "torch.Size"),
    "a dtype that safetensors lacks": ({"a": torch.zeros(2, dtype=torch.complex128)}, "torch.ComplexDoubleStorage"),
}


@pytest.mark.parametrize("case", OTHER)
def test_more_than_plain_tensors_is_refused_by_name(case):
    value, name = OTHER[case]

    with pytest.raises(NotLoadableError) as caught:
        inspect(saved(value), "x")
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(2), "a tensor, expected a dictionary of tensors"),
        ([torch.zeros(2)], "a list, expected a dictionary of tensors"),
        ({"state_dict": {"a": torch.zeros(2)}}, "'state_dict' is a dictionary, expected a tensor"),
        (OrderedDict(model=OrderedDict(a=torch.zeros(2))), "'model' is a dictionary, expected a tensor"),
        ({"a": torch.zeros(2), "epoch": 3}, "'epoch' is a number, expected a tensor"),
        ({"a": None}, "'a' is None, expected a tensor"),
    ],
)  # fmt: skip
def test_another_arrangement_of_tensors_is_refused_in_words(value, words):
    with pytest.raises(NotLoadableError, match=words):
        inspect(saved(value), "x")


def test_expanded_tensors_are_refused():
    """One element that poses as a million: written out it would be a bomb."""
    with pytest.raises(NotLoadableError, match="repeats the elements of its storage"):
        inspect(saved({"a": torch.zeros(1).expand(1000, 1000)}), "x")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_refused(protocol):
    with pytest.raises(NotLoadableError, match=f"protocol {protocol}, torch reads protocol 2"):
        inspect(saved({"a": torch.zeros(2)}, pickle_protocol=protocol), "x")
