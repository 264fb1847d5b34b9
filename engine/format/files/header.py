"""Reads the header of a safetensors file, with the verdicts of the safetensors library.

Every file that the library (0.8.0) rejects is rejected here with a code of its own; every file that it accepts is
accepted, except one whose header holds more than `MAX_VALUES` JSON values (README.md says why).
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.errors import HeaderError
from engine.format.files.entries import Broken, parse_entries
from engine.format.files.tensors import Header, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element of every dtype that safetensors 0.8.0 knows."""

_SMALL = 2**20
"""Bytes of a header up to which the last ones read are remembered: adapters trained alike have the same."""

_USIZE = 2**64  # the library counts in 64-bit unsigned integers and checks every product


def read_header(path: Path) -> Header:
    """The header of the regular file at `path`; reads nothing behind it.

    Raises HeaderError: no such file, not a regular file (symlink, FIFO, device), or a header that is broken or lies.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        length = _header_length(_read_exactly(descriptor, LENGTH_BYTES), size)
        return _parse(_read_exactly(descriptor, length), length, size)
    except Broken as broken:
        raise HeaderError(path, broken.code, broken.reason) from None
    except OSError as error:
        raise HeaderError(path, "unreadable", error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def parse_header(prefix: bytes, file_size: int, path: Path | str = "<bytes>") -> Header:
    """The header in `prefix`, the first 8 + n bytes (or more) of a file of `file_size` bytes. Pure.

    Raises HeaderError: the header is broken or lies about the file.
    """
    try:
        length = _header_length(prefix[:LENGTH_BYTES], file_size)
        return _parse(prefix[LENGTH_BYTES : LENGTH_BYTES + length], length, file_size)
    except Broken as broken:
        raise HeaderError(path, broken.code, broken.reason) from None


def open_regular(path: Path) -> int:
    """A descriptor of the regular file at `path`; never follows a link at its end and never waits for a writer.

    Raises HeaderError: code `missing`, `not-regular` or `unreadable`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HeaderError(path, "missing", "no such file") from None
    except OSError as error:
        link = os.path.islink(path)  # noqa: PTH114 (it never raises: the name may be too long for a file)
        reason = "a symbolic link" if link else error.strerror or str(error)
        raise HeaderError(path, "not-regular" if link else "unreadable", reason) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HeaderError(path, "not-regular", "not a regular file")
    return descriptor


def _read_exactly(descriptor: int, count: int) -> bytes:
    chunks = []
    while count > 0:
        chunk = os.read(descriptor, count)
        if not chunk:
            break
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _header_length(first: bytes, file_size: int) -> int:
    if file_size < LENGTH_BYTES or len(first) < LENGTH_BYTES:
        raise Broken("too-small", f"{file_size} bytes, a header needs at least {LENGTH_BYTES}")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER:
        raise Broken("header-too-large", f"announces {length} bytes of header, at most {MAX_HEADER} are allowed")
    if LENGTH_BYTES + length > file_size:
        raise Broken("header-past-end", f"announces {length} bytes of header in a file of {file_size} bytes")
    return length


def _parse(text: bytes, length: int, file_size: int) -> Header:
    return (_remembered if length <= _SMALL else _parsed)(text, length, file_size)


def _parsed(text: bytes, length: int, file_size: int) -> Header:
    if len(text) < length:
        raise Broken("header-past-end", f"the header needs {length} bytes, {len(text)} are there")
    entries, metadata = parse_entries(text, BITS)
    offset = LENGTH_BYTES + len(text)
    ordered = sorted(entries, key=lambda info: (info.start, info.end, info.name))
    _check_layout(ordered, file_size - offset)
    return Header({info.name: info for info in ordered}, offset, file_size, metadata)


_remembered = lru_cache(maxsize=8)(_parsed)


def _check_layout(ordered: Iterable[TensorInfo], data_size: int) -> None:
    """Tensors must lie one behind the other from byte 0 to the end of the file, each as long as its shape says."""
    position = 0
    for info in ordered:
        if info.end < info.start:
            raise Broken("reversed-offsets", f"tensor {info.name!r} ends at {info.end} before its start {info.start}")
        if info.start != position:
            code = "hole" if info.start > position else "overlap"
            raise Broken(code, f"tensor {info.name!r} starts at {info.start}, expected {position}")
        needed = _byte_size(info)
        if info.size != needed:
            raise Broken(
                "size-mismatch",
                f"tensor {info.name!r} of {info.dtype} {list(info.shape)} needs {needed} bytes, has {info.size}",
            )
        position = info.end
    if position > data_size:
        raise Broken("truncated", f"tensors need {position} bytes, the file holds {data_size}")
    if position < data_size:
        raise Broken("trailing-bytes", f"{data_size - position} bytes behind the last tensor")


def _byte_size(info: TensorInfo) -> int:
    bits = 1
    for factor in (*info.shape, BITS[info.dtype]):
        bits *= factor
        if bits >= _USIZE:
            raise Broken("overflow", f"the size of tensor {info.name!r} does not fit 64 bits")
    if bits % 8:
        raise Broken("sub-byte", f"tensor {info.name!r} of {info.dtype} does not fill whole bytes")
    return bits // 8
