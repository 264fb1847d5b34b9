"""A pickled adapter_model.bin becomes a safetensors file: inspected, loaded elsewhere, compared byte for byte."""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.convert.allowed import DTYPES
from engine.convert.process import MAX_ANSWER, Ended, run
from engine.convert.version import NEEDED, is_enough
from engine.convert.weights import MAX_FILE, inspect
from engine.errors import ConfinementError, MissingExtraError, NotLoadableError, OutdatedError
from engine.format.files.header import read_header
from engine.format.files.tensorfile import TensorFile
from engine.format.files.writer import TensorWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.convert.allowed import Described
    from engine.convert.weights import PickledWeights
    from engine.format.files.tensors import Header

VERB = "convert"
CHILD = "engine.convert.child"

_CHUNK = 1 << 24
_SECONDS, _BYTES_PER_SECOND = 60, 10_000_000  # what a load may take: a start, and its bytes
_START_SECONDS = 240  # importing torch from a cold disk on a busy machine
_MEMORY, _COPIES = 256 * 2**20, 4  # bytes a load may take: some, and copies of the file
_LISTED = 3
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: `tensors` in all, `size` in bytes of the file; findings are all `info`."""

    tensors: int
    size: int
    findings: tuple[Finding, ...]


def convert_pickled(source: int, out: Path, *, path: Path | str) -> Converted:
    """Writes the tensors of the pickle in the open file `source` to the new safetensors file `out`, not yet fsynced.

    The bytes are copied first and sealed, so that what is inspected is what is loaded. `path` is for messages.
    Raises NotLoadableError, ConfinementError; MissingExtraError and OutdatedError where torch is not there or too old.
    A refusal may leave `out` behind, half written.
    """
    sealed = _sealed_copy(source, path)
    try:
        # not closed by hand: the frames of a refusal still hold slices of it
        data = memoryview(mmap.mmap(sealed, 0, access=mmap.ACCESS_READ))
        weights = inspect(data, path)
        _require_torch()
        header = _write_header(out, weights)
        _load(sealed, out, header, weights, path)
        _verify(data, out, header, weights, path)
    finally:
        os.close(sealed)
    return Converted(len(weights.tensors), header.file_size, tuple(_findings(weights)))


def _sealed_copy(source: int, path: Path | str) -> int:
    """A descriptor of bytes in memory that nobody can change any more."""
    sealed = os.memfd_create("adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _copy(source, sealed, path)
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(sealed)
        raise
    return sealed


def _copy(source: int, target: int, path: Path | str) -> None:
    size = 0
    while chunk := os.pread(source, _CHUNK, size):
        size += len(chunk)
        if size > MAX_FILE:
            raise NotLoadableError(path, f"more than {MAX_FILE:,} bytes")
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
    if not size:
        raise NotLoadableError(path, "an empty file")


def _require_torch() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("torch")
    except PackageNotFoundError:
        raise MissingExtraError(VERB, "torch", "engine") from None
    if not is_enough(found):
        raise OutdatedError(VERB, "torch", needed=NEEDED, found=found)


def _write_header(out: Path, weights: PickledWeights) -> Header:
    """The file as it will be, its tensors still zero; its own header as our reader sees it."""
    with TensorWriter(out, {name: (one.dtype, one.shape) for name, one in weights.tensors.items()}):
        pass
    os.truncate(out, out.stat().st_size + weights.size)
    return read_header(out)


def _load(sealed: int, out: Path, header: Header, weights: PickledWeights, path: Path | str) -> None:
    size = os.fstat(sealed).st_size
    seconds = _SECONDS + size // _BYTES_PER_SECOND
    target = os.open(out, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        request = {
            "source": sealed,
            "output": target,
            "output_size": max(header.file_size, MAX_ANSWER),
            "memory": _MEMORY + _COPIES * (size + weights.size),
            "seconds": seconds,
            "tensors": _planned(header, weights),
        }
        answer = run(CHILD, request, files=(sealed, target), timeout=_START_SECONDS + seconds)
    except Ended as ended:
        raise NotLoadableError(path, f"the process that loaded it {ended.reason}") from None
    finally:
        os.close(target)
    _judge(answer, path)


def _planned(header: Header, weights: PickledWeights) -> dict[str, dict[str, Any]]:
    """What torch must load, in the pickle's order, and where in the file each tensor's bytes go."""
    names = {ours: f"torch.{torch}" for torch, ours in DTYPES.items()}
    return {
        name: {
            "dtype": names[one.dtype],
            "shape": one.shape,
            "offset": header.data_offset + header.tensors[name].start,
        }
        for name, one in weights.tensors.items()
    }


def _judge(answer: dict[str, Any], path: Path | str) -> None:
    status, reason = answer.get("status"), str(answer.get("reason"))
    if status == "done":
        return
    if status == "unconfined":
        raise ConfinementError(f"{path}: not opened: {reason}")
    if status == "outdated":
        raise OutdatedError(VERB, "torch", needed=NEEDED, found=reason)
    raise NotLoadableError(path, f"torch's weights_only loader: {reason}")


def _verify(data: memoryview, out: Path, header: Header, weights: PickledWeights, path: Path | str) -> None:
    """Whatever the process did, the file must hold what the pickle's own storages hold, tensor by tensor."""
    if read_header(out) != header:
        raise NotLoadableError(path, "the process that loaded it wrote another file than was planned")
    with TensorFile(out, header) as file:
        for name, one in weights.tensors.items():
            if file.whole(header.tensors[name]) != _elements(data, weights.starts[one.storage.key], one):
                raise NotLoadableError(path, f"torch read other values for {name!r} than the file holds")


def _elements(data: memoryview, start: int, one: Described) -> bytes:
    """The tensor's bytes in the order of its indices, read from its storage without torch."""
    import numpy as np

    if not one.size:
        return b""
    strides = [step * one.width for step in one.stride]
    view = np.ndarray(one.shape, f"V{one.width}", data, start + one.offset * one.width, strides)
    return view.tobytes()


def _findings(weights: PickledWeights) -> Iterator[Finding]:
    if weights.tied:
        yield _note("tied-tensors", "share their elements with another and were written on their own", weights.tied)
    if weights.scattered:
        yield _note("strided-tensors", "were stored in another order of their elements", weights.scattered)


def _note(rule: str, what: str, names: tuple[str, ...]) -> Finding:
    shown = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return Finding(rule, "info", f"{len(names)} tensors {what}: {shown}", where=names[0])
