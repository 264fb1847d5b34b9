"""Torch's zip is read; any other arrangement of the same bytes is refused by name."""

from __future__ import annotations

import io
import zipfile

import pytest

from engine.convert.weights import inspect
from engine.errors import NotLoadableError
from tests.engine.convert.pickles import FLOATS_0_TO_5, archive, member, usual, weights, zipped

DATA = weights()


def replaced(place, new):
    members = usual()
    members[place] = new
    return archive(members)


def changed(at, new, *, whole=None):
    """A sound file with some bytes overwritten, counted from the end where `at` is negative."""
    data = bytearray(zipped() if whole is None else whole)
    at = at if at >= 0 else len(data) + at
    data[at : at + len(new)] = new
    return bytes(data)


def rezipped(method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        out.writestr("archive/data.pkl", DATA)
        out.writestr("archive/data/0", FLOATS_0_TO_5)
    return file.getvalue()


def after_rename(old, new):
    """The member's own header says `old`, the directory `new`, or the other way round."""
    return zipped().replace(old, new, 1)


ZIPS = {
    "a prefix": (archive(usual(), prefix=b"#!/bin/sh\n"), "neither the zip nor"),
    "a prefix that is a zip's start": (archive(usual(), prefix=b"PK\3\4" + bytes(40)), "expected at 0"),
    "a prefix, offsets moved": (b"PK" + archive(usual(), shift=2), "zip64 record"),
    "a prefix, offsets moved, no zip64": (b"PK" + archive(usual(), shift=2, wide=False), "does not end where"),
    "a suffix": (archive(usual(), suffix=b"x"), "behind its end"),
    "another zip behind": (zipped() + zipped(), "does not end where|64"),
    "a comment": (archive(usual(), comment=b"hello"), "behind its end"),
    "a gap": (archive(usual(), gap=b"hidden"), "6 bytes between"),
    "compressed by another tool": (rezipped(zipfile.ZIP_DEFLATED), "a compressed member"),
    "compressed, a bomb": (
        replaced(2, member("archive/data/0", b"\0" * 24, method=8)), "a compressed member",
    ),
    "encrypted": (replaced(2, member("archive/data/0", FLOATS_0_TO_5, flags=0x0809)), "flags 0x0809"),
    "masked headers": (replaced(2, member("archive/data/0", FLOATS_0_TO_5, flags=0x2808)), "flags 0x2808"),
    "a member twice": (archive([*usual(), member("archive/data.pkl", DATA)]), "stands twice"),
    "a storage twice": (archive([*usual(), member("archive/data/0", FLOATS_0_TO_5)]), "stands twice"),
    "two folders": (archive([*usual(), member("other/data.pkl", DATA)]), "exactly one data.pkl|stands twice"),
    "no folder": (replaced(0, member("data.pkl", DATA)), "did not write|does not write"),
    "a folder that goes up": (archive([member("../data.pkl", DATA)]), "no plain name"),
    "an absolute name": (archive([member("/data.pkl", DATA)]), "no plain name"),
    "a name with an escape": (archive([member("a\x1b[31m/data.pkl", DATA)]), "no plain name"),
    "a name with a zero": (replaced(3, member("archive/version\0.py", b"3\n")), "does not write"),
    "code": (archive([*usual(), member("archive/code/x.py", b"")]), "does not write"),
    "torchscript": (archive([*usual(), member("archive/constants.pkl", DATA)]), "does not write"),
    "the pickle in other letters": (archive([*usual(), member("archive/DATA.PKL", DATA)]), "does not write"),
    "a storage that is no number": (archive([*usual(), member("archive/data/x", b"")]), "does not write"),
    "a storage that goes up": (archive([*usual(), member("archive/data/../x", b"")]), "does not write"),
    "a storage nobody names": (archive([*usual(), member("archive/data/1", b"1234")]), "storage 1 is named"),
    "no storage": (archive(usual()[:2]), "storage 0 is named"),
    "a storage too short": (zipped(storage=FLOATS_0_TO_5[:-1]), "23 bytes, the pickle says 24"),
    "a storage too long": (zipped(storage=FLOATS_0_TO_5 + b"\0"), "25 bytes, the pickle says 24"),
    "no pickle": (archive(usual()[1:]), "exactly one data.pkl"),
    "a version of a megabyte": (replaced(3, member("archive/version", b"3" * 2**20)), "64 at most"),
    "big-endian": (replaced(1, member("archive/byteorder", b"big")), "little end first"),
    "a checksum that is wrong": (changed(zipped().index(FLOATS_0_TO_5), b"\1"), "checksum"),
    "a descriptor that lies": (
        replaced(2, member("archive/data/0", FLOATS_0_TO_5, descriptor=b"PK\7\10" + bytes(12))), "descriptor",
    ),
    "no descriptor": (replaced(2, member("archive/data/0", FLOATS_0_TO_5, descriptor=b"")), "descriptor"),
    "sizes in two places that differ": (
        replaced(0, member("archive/data.pkl", DATA, flags=0x0800, crc=1)), "checksum",
    ),
    "own header of another name": (after_rename(b"archive/data.pkl", b"archive/data.pk1"), "own header"),
    "own header of another method": (changed(8, b"\x08"), "own header"),
    "own header of other flags": (changed(6, b"\x00\x08"), "own header"),
    "own header with a size": (changed(18, b"\x01"), "other sizes"),
    "an extra field of another tool": (
        replaced(2, member("archive/data/0", FLOATS_0_TO_5, extra=b"UT\x05\x00\x01\x00\x00\x00\x00")), "extra field",
    ),
    "an extra field that hides bytes": (
        replaced(2, member("archive/data/0", FLOATS_0_TO_5, extra=b"FB\x00\x00hidden")), "extra field",
    ),
    "another order": (archive(usual(), order=[1, 0, 2, 3]), "expected at 0"),
    "one member fewer": (archive(usual(), count=3), "more than its entries"),
    "one member more": (archive(usual(), count=5), "cut off|torch does not write"),
    "no member": (archive([]), "0 members|neither the zip nor"),
    "two counts that differ": (changed(-22 + 10, b"\x09\0", whole=zipped()), "several parts|differ"),
    "several disks": (changed(-22 + 4, b"\1"), "several parts"),
    "a zip64 record elsewhere": (changed(-22 - 20 + 8, b"\0" * 8), "zip64 record"),
    "a zip64 record of another length": (changed(-22 - 20 - 56 + 4, b"\x2d"), "zip64 record"),
    "a zip64 record of other places": (changed(-22 - 20 - 56 + 48, b"\1"), "differ"),
    "cut off": (zipped()[:-1], "cut off"),
    "cut off in the middle": (zipped()[:300], "cut off"),
    "the start of a zip": (b"PK", "cut off"),
    "7-zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "neither the zip nor"),
    "a tar": (b"storages" + bytes(1016), "neither the zip nor"),
    "safetensors": (b"\x02\0\0\0\0\0\0\0{}", "neither the zip nor"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "neither the zip nor"),
}  # fmt: skip


@pytest.mark.parametrize("case", ZIPS)
def test_another_zip_than_torchs_is_refused(case):
    data, words = ZIPS[case]

    with pytest.raises(NotLoadableError, match=words) as caught:
        inspect(memoryview(data), "x.bin")
    assert str(caught.value).startswith("x.bin: not loadable here: ")


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("flags", [0x0808, 0x0800, 0x0008, 0])
def test_what_writers_of_torch_may_vary_is_read(wide, flags):
    """With and without the zip64 record, with sizes before or behind the data."""
    data = archive(
        [member("a b/data.pkl", DATA, flags=flags, padding=False), member("a b/data/0", FLOATS_0_TO_5, flags=flags)],
        wide=wide,
    )

    found = inspect(memoryview(data), "x")

    assert list(found.tensors) == ["a"]
    assert data[found.starts["0"] :][:24] == FLOATS_0_TO_5


def test_any_single_bit_changed_is_noticed_or_harmless():
    """Only padding and fields without meaning (versions, times, attributes) may change, and then nothing else does."""
    sound = zipped()
    expected = inspect(memoryview(sound), "x")
    for place in range(len(sound)):
        data = bytearray(sound)
        data[place] ^= 0x04
        try:
            found = inspect(memoryview(data), "x")
        except NotLoadableError:
            continue
        assert found == expected, place


def test_any_beginning_of_a_file_is_refused():
    sound = zipped()
    for length in range(len(sound)):
        with pytest.raises(NotLoadableError):
            inspect(memoryview(sound)[:length], "x")
