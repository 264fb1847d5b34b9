"""Pickles and the files around them, built byte by byte: what no writer of torch would make."""

from __future__ import annotations

import struct
import zlib

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}(" + b"X\x0d\x00\x00\x00little_endian" + b"\x88u."


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def named(module, name):
    return f"c{module}\n{name}\n".encode()


ORDERED = named("collections", "OrderedDict")
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
FLOATS = named("torch", "FloatStorage")


def pid(kind=FLOATS, key="0", count=b"K\x06", location="cpu", more=b""):
    """A persistent id and its opcode: six floats by default."""
    return b"(" + text("storage") + kind + text(key) + text(location) + count + more + b"tQ"


def tensor(storage=None, *, offset=b"K\x00", shape=b"K\x02K\x03\x86", stride=b"K\x03K\x01\x86", rest=None):
    """The opcodes of a (2, 3) tensor of floats; `rest` stands behind the strides."""
    rest = b"\x89" + ORDERED + b")R" if rest is None else rest
    return REBUILD + b"(" + (storage or pid()) + offset + shape + stride + rest + b"tR"


def program(*steps, protocol=2):
    """A pickle: PROTO, the steps, STOP."""
    return bytes([0x80, protocol]) + b"".join(steps) + b"."


def weights(value=None, *, key="a"):
    """The pickle of a dictionary with one tensor, or with `value`."""
    return program(b"}", text(key), tensor() if value is None else value, b"s")


def member(name, data, *, flags=0x0808, method=0, local=None, padding=True, crc=None, descriptor=None, extra=None):
    """A member as torch writes it: (bytes before the data, data, bytes behind, central entry without its offset)."""
    raw = name if isinstance(name, bytes) else name.encode()
    crc = zlib.crc32(data) if crc is None else crc
    sizes = (0, 0, 0) if flags & 8 else (crc, len(data), len(data))
    more = (b"FB\x02\x00ZZ" if padding else b"") if extra is None else extra
    head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, flags, method, 0, 0, *sizes, len(raw), len(more)) + raw + more
    tail = struct.pack("<4sIII", b"PK\7\10", crc, len(data), len(data)) if flags & 8 else b""
    central = (flags, method, crc, len(data), raw)
    return (local or head), data, tail if descriptor is None else descriptor, central


def archive(members, *, prefix=b"", gap=b"", suffix=b"", wide=True, comment=b"", count=None, order=None, shift=0):
    """The zip of members in torch's way; everything else about it as asked."""
    body, directory = prefix, []
    for head, data, tail, (flags, method, crc, size, raw) in members:
        place = len(body) + shift
        fields = (b"PK\1\2", 0, 0, flags, method, 0, 0, crc, size, size, len(raw), 0, 0, 0, 0, 0, place)
        directory.append(struct.pack("<4sHHHHHHIIIHHHHHII", *fields) + raw)
        body += head + data + tail
    body += gap
    entries = b"".join(directory[place] for place in order) if order else b"".join(directory)
    number = len(members) if count is None else count
    end = body + entries
    if wide:
        record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 798, 45, 0, 0, number, number, len(entries), len(body))
        end += record + struct.pack("<4sIQI", b"PK\6\7", 0, len(end), 1)
    last = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, number, number, len(entries), len(body), len(comment))
    return end + last + comment + suffix


FLOATS_0_TO_5 = struct.pack("<6f", 0, 1, 2, 3, 4, 5)


def usual(pickle=None, storage=FLOATS_0_TO_5):
    """The members of a sound file with one storage."""
    return [
        member("archive/data.pkl", weights() if pickle is None else pickle),
        member("archive/byteorder", b"little"),
        member("archive/data/0", storage),
        member("archive/version", b"3\n"),
    ]


def zipped(pickle=None, storage=FLOATS_0_TO_5):
    """A sound zip around any pickle."""
    return archive(usual(pickle, storage))


def legacy(pickle=None, *, keys=("0",), storages=None, system=SYSTEM, magic=MAGIC, protocol=PROTOCOL, suffix=b""):
    """A file of the older layout around any pickle."""
    if pickle is None:
        pickle = weights(tensor(pid(more=b"N")))
    names = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    data = struct.pack("<q", 6) + FLOATS_0_TO_5 if storages is None else storages
    return magic + protocol + system + pickle + names + data + suffix
