"""The streaming writer against safetensors' own."""

import pytest
import torch
from safetensors.torch import save_file

from engine.format.files.writer import TensorWriter
from engine.merge.matrices.factors import as_bytes
from tests.engine.merge.factories import normal

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def write(path, tensors):
    with TensorWriter(path, {name: (NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}) as writer:
        for name in reversed(tensors):
            writer.put(name, as_bytes(tensors[name]))


def test_bytes_are_those_of_save_file(tmp_path):
    """Every dtype, names in no order, an empty tensor, a scalar and a name beyond ASCII."""
    tensors = {f"{name}.x": normal(1, 3, 5).to(dtype) for dtype, name in NAMES.items()}
    tensors |= {
        "z": normal(2, 7),
        "a": normal(3, 2),
        "größe": normal(4, 1),
        "empty": torch.zeros(0, 3),
        "one": torch.tensor(1.0),
    }

    write(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_tensor_of_another_size_is_an_error(tmp_path):
    with (
        TensorWriter(tmp_path / "x", {"a": ("F32", (3,))}) as writer,
        pytest.raises(ValueError, match="8 bytes, planned 12"),
    ):
        writer.put("a", b"12345678")


def test_blocks_of_a_tensor_come_one_after_the_other_and_no_more_than_planned(tmp_path):
    with TensorWriter(tmp_path / "x", {"a": ("U8", (5,)), "b": ("U8", (2,))}) as writer:
        writer.put_blocks("a", iter([b"12", b"", b"345"]))
        with pytest.raises(ValueError, match="more than the 2 bytes planned"):
            writer.put_blocks("b", [b"67", b"8"])
    assert (tmp_path / "x").read_bytes().endswith(b"1234567")


def test_a_file_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "x").write_text("kept")

    with pytest.raises(FileExistsError):
        TensorWriter(tmp_path / "x", {})

    assert (tmp_path / "x").read_text() == "kept"


def test_what_comes_after_the_end_is_written_nowhere(tmp_path):
    """Another file has the descriptor's number by then."""
    with TensorWriter(tmp_path / "w.safetensors", {"a": ("U8", (4,))}) as writer:
        writer.put("a", b"full")
    with (tmp_path / "other").open("wb"), pytest.raises(OSError, match="Bad file descriptor"):
        writer.put("a", b"late")

    assert (tmp_path / "other").read_bytes() == b""
