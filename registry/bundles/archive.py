"""The one shape of tar archive that bundles have: plain files, names known beforehand, every header byte determined.

Reading is comparing. The index says which members follow and how large they are, so the only header that is right is
the one that would be written: links, devices, sparse files, other names, sizes, orders or repetitions are simply other
bytes, and no name in an archive is ever used as a path.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from registry.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
END = bytes(2 * BLOCK)
CHUNK = 1 << 20
_OCTAL = 8**11
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"L": "a long name",
    b"K": "a long link name",
    b"x": "an extended header",
    b"g": "a global header",
}


def header(name: str, size: int) -> bytes:
    """The header of a member in ustar, sizes from 8 GiB in base 256 as GNU tar writes them."""
    length = b"%011o\0" % size if size < _OCTAL else (1 << 95 | size).to_bytes(12, "big")
    fields = [name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", length, b"%011o\0" % 0]
    rest = [b"0", bytes(100), b"ustar\0", b"00", bytes(32), bytes(32), b"0000000\0", b"0000000\0", bytes(167)]
    filled = b"".join([*fields, b" " * 8, *rest])
    return filled[:148] + b"%06o\0 " % sum(filled) + filled[156:]


def padding(size: int) -> bytes:
    """What follows a member's bytes up to the next block."""
    return bytes(-size % BLOCK)


def first_member(source: BinaryIO, name: str, largest: int) -> bytes:
    """The bytes of the first member, whose size only its header tells; UsageError above `largest` before reading it."""
    found = _exactly(source, BLOCK, "its first header")
    size = _size(found)
    if size is None or found != header(name, size):
        _refuse_header(found, f"{name} first")
    if size > largest:
        raise UsageError(f"not a bundle: {name} has {size} bytes, at most {largest} are read")
    content = _exactly(source, size, name)
    _expect_padding(source, size, name)
    return content


def next_member(source: BinaryIO, name: str, size: int, digest: str, write: Callable[[bytes], object]) -> None:
    """Streams the bytes of the next member to `write`; CorruptError where they are not the digest's."""
    found = _exactly(source, BLOCK, f"the header of {name}")
    if found != header(name, size):
        _refuse_header(found, f"{name} of {size} bytes")
    hashed, left = hashlib.sha256(), size
    while left:
        chunk = _exactly(source, min(CHUNK, left), name)
        hashed.update(chunk)
        write(chunk)
        left -= len(chunk)
    _expect_padding(source, size, name)
    if (actual := f"sha256:{hashed.hexdigest()}") != digest:
        raise CorruptError(name, expected=digest, actual=actual)


def expect_end(source: BinaryIO) -> None:
    """UsageError unless the archive ends here."""
    if _exactly(source, len(END), "the end of the archive") != END:
        raise UsageError("not a bundle: more members than its index names")
    if source.read(1):
        raise UsageError("not a bundle: bytes follow the end of the archive")


def _exactly(source: BinaryIO, size: int, what: str) -> bytes:
    """`size` bytes, which pipes may deliver in pieces."""
    pieces, left = [], size
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise UsageError(f"not a bundle, or cut short: expected {size} bytes of {what}, found {size - left}")
    return b"".join(pieces)


def _expect_padding(source: BinaryIO, size: int, what: str) -> None:
    if _exactly(source, -size % BLOCK, f"the padding of {what}") != padding(size):
        raise UsageError(f"not a bundle: the padding of {what} is not zeros")


def _size(found: bytes) -> int | None:
    text = found[124:135]
    return int(text, 8) if text.strip(b"01234567") == b"" and found[135:136] == b"\0" else None


def _refuse_header(found: bytes, expected: str) -> NoReturn:
    if found == bytes(BLOCK):
        raise UsageError(f"not a bundle: expected {expected}, found the end of the archive")
    if found[257:262] != b"ustar":
        raise UsageError(f"not a bundle: expected {expected}, found no tar header")
    name = found[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    kind = _KINDS.get(found[156:157], "a file with another header")
    raise UsageError(f"not a bundle that `adapters export` wrote: expected {expected}, found {kind}: {name!r}")
