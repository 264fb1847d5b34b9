"""From a pickle to a safetensors file through the real process: same names, same values, or nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from engine.convert import pickled
from engine.convert.pickled import convert_pickled
from engine.convert.weights import PickledWeights, inspect
from engine.errors import ConfinementError, MissingExtraError, NotLoadableError, OutdatedError
from tests.engine.convert.hostile import PICKLES
from tests.engine.convert.pickles import FLOATS, legacy, named, pid, program, tensor, text, zipped

ROOT = Path(__file__).parents[3]


def convert(source, out):
    descriptor = os.open(source, os.O_RDONLY)
    try:
        return convert_pickled(descriptor, out, path=source)
    finally:
        os.close(descriptor)


def bits(tensors):
    """Values as bytes, so that NaN equals itself and -0.0 does not equal 0.0."""
    return {
        name: (str(one.dtype), tuple(one.shape), one.contiguous().reshape(-1).view(torch.uint8).tolist())
        for name, one in tensors.items()
    }


def many_kinds():
    """Every dtype, tied, strided, sliced, scalar, empty; with NaN of a payload, infinities and a negative zero."""
    torch.manual_seed(0)
    dtypes = [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64,
    ]  # fmt: skip
    values = {f"t.{dtype}": (torch.randn(3, 5) * 40).abs().to(dtype) for dtype in dtypes}
    whole = torch.randn(6, 8)
    odd = struct.unpack("<f", b"\x01\x23\xc0\x7f")[0]
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, odd])
    return {
        **values, "whole": whole, "again": whole, "turned": whole.t(), "part": whole[1:4, ::3], "special": special,
        "p": nn.Parameter(torch.randn(4)), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 7),
        "n\u00e4me \U0001f600": torch.ones(1),
    }  # fmt: skip


@pytest.mark.parametrize("zip_layout", [True, False])
def test_values_survive_bit_by_bit(tmp_path, zip_layout):
    tensors = many_kinds()
    if zip_layout:  # the older layout has no such dtypes
        tensors |= {f"n.{d}": torch.arange(5.0).to(d) for d in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)}
    torch.save(tensors, tmp_path / "a.bin", _use_new_zipfile_serialization=zip_layout)

    done = convert(tmp_path / "a.bin", tmp_path / "a.safetensors")

    assert bits(load_file(tmp_path / "a.safetensors")) == bits(tensors)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert (done.tensors, done.size) == (len(tensors), (tmp_path / "a.safetensors").stat().st_size)
    assert [(one.rule, one.severity, one.message) for one in done.findings] == [
        (
            "tied-tensors", "info",
            "4 tensors share their elements with another and were written on their own: whole, again, turned, …",
        ),
        ("strided-tensors", "info", "2 tensors were stored in another order of their elements: turned, part"),
    ]  # fmt: skip


def believe(data, path):
    """An inspector that was fooled: whatever the file holds, it sees one tensor of six floats."""
    sound = inspect(memoryview(zipped()), path)
    return PickledWeights("zip", sound.tensors, {"0": 0})


# what torch's own loader must refuse where ours was fooled; each would do no visible harm in the locked-in process,
# so that only the refusal itself tells the two loaders of torch apart
FOOLING = {
    "a call that returns a dictionary": program(named("builtins", "dict"), b")R"),
    "code that returns a dictionary": program(named("builtins", "eval"), text("{}"), b"\x85R"),
}


@pytest.mark.parametrize("case", FOOLING)
def test_torch_refuses_what_the_inspector_overlooked(tmp_path, monkeypatch, case):
    """The second lock holds alone, and nothing is tried after it: UnpicklingError is the answer, not another load."""
    monkeypatch.setattr(pickled, "inspect", believe)
    (tmp_path / "a.bin").write_bytes(zipped(FOOLING[case]))

    with pytest.raises(NotLoadableError, match="weights_only loader: UnpicklingError: Weights only load failed"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


def test_other_values_than_the_file_holds_are_noticed(tmp_path, monkeypatch):
    """The third lock: torch loads something, and it is not what was inspected."""
    monkeypatch.setattr(pickled, "inspect", believe)
    (tmp_path / "a.bin").write_bytes(zipped(storage=struct.pack("<6f", 9, 9, 9, 9, 9, 9)))

    with pytest.raises(NotLoadableError, match="torch read other values for 'a' than the file holds"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


def test_other_names_than_were_inspected_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "inspect", believe)
    (tmp_path / "a.bin").write_bytes(zipped(program(b"}", text("b"), tensor(), b"s")))

    with pytest.raises(NotLoadableError, match="other names than the pickle holds"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


def test_memory_beyond_the_files_size_is_refused(tmp_path, monkeypatch):
    """A storage of 8 GB that the pickle announces and the file does not have."""
    monkeypatch.setattr(pickled, "inspect", believe)
    huge = weights_of(pid(FLOATS, count=b"J\0\0\0\x7f", more=b"N"))
    (tmp_path / "a.bin").write_bytes(legacy(huge))

    with pytest.raises(NotLoadableError, match=r"memory|allocate"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


def weights_of(storage):
    return program(b"}", text("a"), tensor(storage), b"s")


def test_a_refusal_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "run", lambda *_, **__: pytest.fail("a process was started"))
    (tmp_path / "a.bin").write_bytes(zipped(PICKLES["GLOBAL os.system"][0]))

    with pytest.raises(NotLoadableError, match=r"GLOBAL of os\.system"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_the_bytes_inspected_are_the_bytes_loaded(tmp_path, monkeypatch):
    """Another process swaps the file after the inspection: the process that loads it never sees the new bytes."""
    path = tmp_path / "a.bin"
    path.write_bytes(zipped())

    def swap(data, name):
        found = inspect(data, name)
        path.write_bytes(zipped(PICKLES["GLOBAL os.system"][0]))
        with pytest.raises(PermissionError):
            os.pwrite(sealed[0], b"x", 0)
        return found

    def load(_module, request, *, files, timeout):
        seen.append(os.pread(request["source"], 10_000, 0))
        return {"status": "done"}

    seen, sealed = [], []
    copy = pickled._sealed_copy
    monkeypatch.setattr(pickled, "_sealed_copy", lambda *given: sealed.append(copy(*given)) or sealed[0])
    monkeypatch.setattr(pickled, "inspect", swap)
    monkeypatch.setattr(pickled, "run", load)

    with pytest.raises(NotLoadableError, match="other values"):  # for this stand-in writes none
        convert(path, tmp_path / "a.safetensors")
    assert seen == [zipped()]


def test_torch_is_asked_for_by_name(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(zipped())

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    with pytest.raises(MissingExtraError, match=r"convert needs torch.*pip install 'adapter-registry\[engine\]'"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "version", ["2.5.1", "2.6.0+cu124", "2.9.1", "2.10.0a0+git1", "2.10.0rc1", "1.13.1", "nonsense"]
)
def test_an_older_torch_opens_nothing(tmp_path, monkeypatch, version):
    (tmp_path / "a.bin").write_bytes(zipped())
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(pickled, "run", lambda *_, **__: pytest.fail("a process was started"))

    with pytest.raises(OutdatedError, match=r"convert needs torch 2\.10 or newer, found .*pip install 'torch>=2\.10'"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


@pytest.mark.parametrize("version", ["2.10.0", "2.10.1+cpu", "2.13.0+cpu", "2.11.0rc1", "3.0.0"])
def test_a_newer_torch_is_taken(tmp_path, monkeypatch, version):
    (tmp_path / "a.bin").write_bytes(zipped())
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(pickled, "run", lambda *_, **__: {"status": "refused", "reason": "asked"})

    with pytest.raises(NotLoadableError, match="asked"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ({"status": "unconfined", "reason": "no seccomp here"}, ConfinementError, "not opened: no seccomp here"),
        ({"status": "outdated", "reason": "2.9.0"}, OutdatedError, "found 2.9.0"),
        ({"status": "refused", "reason": "why"}, NotLoadableError, "weights_only loader: why"),
        ({}, NotLoadableError, "weights_only loader: None"),
        ({"status": "done"}, NotLoadableError, "other values for 'a'"),
    ],
)  # fmt: skip
def test_each_answer_of_the_process_has_its_error(tmp_path, monkeypatch, answer, error, words):
    """Also the last: a process that says it is done and has written nothing is not believed."""
    (tmp_path / "a.bin").write_bytes(zipped())
    monkeypatch.setattr(pickled, "run", lambda *_, **__: answer)

    with pytest.raises(error, match=words) as caught:
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")
    assert caught.value.exit_code == 2


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")

    with pytest.raises(NotLoadableError, match="an empty file"):
        convert(tmp_path / "a.bin", tmp_path / "a.safetensors")


def test_every_load_in_this_project_says_weights_only():
    """No call of torch.load anywhere may leave it out, or make it depend on anything."""
    calls = [
        {word.arg: ast.unparse(word.value) for word in node.keywords}
        for room in ("engine", "registry")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "load"} and path.name == "child.py")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load")
    ]  # fmt: skip

    assert [call.get("weights_only") for call in calls] == ["True", "True"]
