"""Reads the zip that torch writes, and no other: members stored one behind the other, nothing around or between.

Everything is checked twice, in the central directory and in the member's own header, so that no second reader can see
another file in the same bytes.
"""

from __future__ import annotations

import re
import zlib
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from engine.convert.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MEMBERS = 1_000_000
MAX_SMALL = 64  # bytes of a member that is neither the pickle nor a storage

PICKLE = "data.pkl"
_SMALL = frozenset({"byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id"})
_STORAGE = re.compile(r"data/[0-9]{1,20}", re.ASCII)
_ROOT = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")

_END = Struct("<4sHHHHIIH")
_LOCATOR = Struct("<4sIQI")
_END64 = Struct("<4sQHHIIQQQQ")
_CENTRAL = Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = Struct("<4sHHHHHIIIHH")
_DESCRIPTOR = Struct("<4sIII")
_EXTRA = Struct("<HH")

_SIZES_FOLLOW, _UTF8 = 0x0008, 0x0800
_PADDING = 0x4246  # "FB": bytes that bring a member's data to an aligned place
_ALL_ONES = 0xFFFF
_END64_REST = _END64.size - 12  # the size it states does not count its first two fields


class Member(NamedTuple):
    """Where a member's bytes lie in the file; `name` is without the archive's own folder."""

    name: str
    start: int
    size: int


class _Entry(NamedTuple):
    name: str
    raw: bytes
    flags: int
    crc: int
    size: int
    offset: int


def read_members(data: memoryview) -> dict[str, Member]:
    """Every member by name, its checksum compared; Refusal for any zip that torch.save does not write."""
    directory, count, length = _find_directory(data)
    entries = list(_entries(data, directory, count, length))
    members: dict[str, Member] = {}
    position, roots = 0, set()
    for entry in entries:
        start, end = _check_local(data, entry, position)
        if end > directory:
            raise Refusal("a member that reaches into the directory of the zip", part=entry.name)
        root, _, name = entry.name.partition("/")
        roots.add(root)
        _check_name(entry, root, name, members)
        if zlib.crc32(data[start : start + entry.size]) != entry.crc:
            raise Refusal("a member that does not match its checksum", part=entry.name)
        members[name] = Member(name, start, entry.size)
        position = end
    if position != directory:
        raise Refusal(f"{directory - position} bytes between the members of the zip and its directory")
    if len(roots) != 1 or PICKLE not in members:
        raise Refusal(f"a zip without exactly one {PICKLE}")
    _check_order_of_bytes(data, members)
    return members


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Offset, number of entries and bytes of the central directory, which must end where its end record begins."""
    end = len(data) - _END.size
    if end < 0 or bytes(data[end : end + 4]) != b"PK\5\6":
        raise Refusal("a zip with something behind its end, or cut off")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(data, end)
    if disk or first_disk or comment or here != count:
        raise Refusal("a zip of several parts, or with a comment")
    locator = end - _LOCATOR.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        wide = _wide_directory(data, locator)
        if count not in {wide[0], _ALL_ONES} or (length, offset) != wide[1:]:
            raise Refusal("a zip whose two directories differ")
        count, end = wide[0], locator - _END64.size
    if offset + length != end:
        raise Refusal("a zip whose directory does not end where its end begins")
    if not 0 < count <= MAX_MEMBERS:
        raise Refusal(f"a zip of {count:,} members")
    return offset, count, length


def _wide_directory(data: memoryview, locator: int) -> tuple[int, int, int]:
    """Entries, bytes and offset that the zip64 records state."""
    _, disk, place, disks = _LOCATOR.unpack_from(data, locator)
    if disk or disks != 1 or place != locator - _END64.size or place < 0:
        raise Refusal("a zip64 record that is not where torch writes it")
    magic, rest, _, _, disk, first_disk, here, count, length, offset = _END64.unpack_from(data, place)
    if magic != b"PK\6\6" or rest != _END64_REST or disk or first_disk or here != count:
        raise Refusal("a zip64 record that torch does not write")
    return count, length, offset


def _entries(data: memoryview, position: int, count: int, length: int) -> Iterator[_Entry]:
    end = position + length
    for _ in range(count):
        if position + _CENTRAL.size > end:
            raise Refusal("a zip whose directory is cut off", position=position)
        fields = _CENTRAL.unpack_from(data, position)
        magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment, disk, _, _, offset = fields
        if magic != b"PK\1\2" or extra or comment or disk:
            raise Refusal("an entry of the zip's directory that torch does not write", position=position)
        position += _CENTRAL.size + name_size
        if position > end:
            raise Refusal("a zip whose directory is cut off", position=position)
        raw = bytes(data[position - name_size : position])
        entry = _Entry(raw.decode("utf-8", "backslashreplace"), raw, flags, crc, size, offset)
        _check_entry(entry, method, packed)
        yield entry
    if position != end:
        raise Refusal("a zip whose directory holds more than its entries", position=position)


def _check_entry(entry: _Entry, method: int, packed: int) -> None:
    if method or packed != entry.size:
        raise Refusal(f"a compressed member (method {method}); torch stores them", part=entry.name)
    if entry.flags & ~(_SIZES_FOLLOW | _UTF8):
        raise Refusal(
            f"a member with flags 0x{entry.flags:04x}, encrypted or otherwise unlike torch's", part=entry.name
        )


def _check_local(data: memoryview, entry: _Entry, position: int) -> tuple[int, int]:
    """Where the member's bytes start and where the next member does; `position` is where this one must begin."""
    if entry.offset != position or position + _LOCAL.size > len(data):
        raise Refusal(f"a member at byte {entry.offset}, expected at {position}", part=entry.name)
    magic, _, flags, method, _, _, crc, packed, size, name_size, extra = _LOCAL.unpack_from(data, position)
    position += _LOCAL.size
    raw = bytes(data[position : position + name_size])
    if magic != b"PK\3\4" or flags != entry.flags or method or raw != entry.raw:
        raise Refusal("a member that its own header calls another", part=entry.name)
    follows = bool(flags & _SIZES_FOLLOW)
    if (crc, packed, size) != ((0, 0, 0) if follows else (entry.crc, entry.size, entry.size)):
        raise Refusal("a member whose two headers state other sizes", part=entry.name)
    start = position + name_size + extra
    _check_padding(data[position + name_size : start], extra, entry)
    end = start + entry.size
    if follows:
        end += _DESCRIPTOR.size
        if bytes(data[start + entry.size : end]) != _DESCRIPTOR.pack(b"PK\7\10", entry.crc, entry.size, entry.size):
            raise Refusal("a member whose descriptor states another size or checksum", part=entry.name)
    if end > len(data):
        raise Refusal("a member that is cut off", part=entry.name)
    return start, end


def _check_padding(extra: memoryview, size: int, entry: _Entry) -> None:
    if size and (len(extra) != size or size < _EXTRA.size or _EXTRA.unpack_from(extra) != (_PADDING, size - 4)):
        raise Refusal("a member with an extra field that torch does not write", part=entry.name)


def _check_name(entry: _Entry, root: str, name: str, members: dict[str, Member]) -> None:
    if not _ROOT.fullmatch(root) or root in {".", ".."}:
        raise Refusal("a member whose folder has no plain name", part=entry.name)
    if name in members:
        raise Refusal("a member that stands twice", part=entry.name)
    if name != PICKLE and name not in _SMALL and not _STORAGE.fullmatch(name):
        raise Refusal("a member that torch.save does not write", part=entry.name)
    if name in _SMALL and entry.size > MAX_SMALL:
        raise Refusal(f"a member of {entry.size:,} bytes, expected {MAX_SMALL} at most", part=entry.name)


def _check_order_of_bytes(data: memoryview, members: dict[str, Member]) -> None:
    member = members.get("byteorder")
    if member is not None and bytes(data[member.start : member.start + member.size]) != b"little":
        raise Refusal("numbers that are not stored little end first", part=member.name)
