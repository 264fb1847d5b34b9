"""Every hostile file gets the verdict of the safetensors library, and a code of its own."""

import os
import struct
from pathlib import Path

import pytest
import safetensors

from engine.errors import HeaderError
from engine.format.files.header import parse_header, read_header
from tests.engine.format.adapters import DATA, ENTRY, raw

OK = "ok"


def entry(**fields: str) -> str:
    """A file's header with one tensor whose fields are given as JSON text."""
    merged = {"dtype": '"F32"', "shape": "[2]", "data_offsets": "[0,8]"} | fields
    return '{"a":{' + ",".join(f'"{key}":{value}' for key, value in merged.items()) + "}}"


def nested(levels: int) -> str:
    return entry(x="[" * levels + "]" * levels)


GOOD = f'{{"a":{ENTRY}}}'
TWO = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[%s]}}'

# number and name as in the project's list of hostile files; the verdict is the reference's, stated by hand
HOSTILE = {
    "01 empty file": (b"", "too-small"),
    "02 seven bytes": (b"1234567", "too-small"),
    "03 n=0": (struct.pack("<Q", 0), "bad-json"),
    "04 n=2^64-1": (raw(GOOD, length=2**64 - 1), "header-too-large"),
    "05 n>file": (raw(GOOD, length=5000), "header-past-end"),
    "06 n=100,000,001": (raw(GOOD, length=100_000_001), "header-too-large"),
    "07 header is a list": (raw("[]", b""), "not-an-object"),
    "08 leading space": (raw(" " + GOOD), OK),
    "09 BOM": (raw("\ufeff" + GOOD), "bad-json"),
    "10 invalid UTF-8": (raw(b'{"a\xff":' + ENTRY.encode() + b"}"), "not-utf8"),
    "11 lone surrogate": (raw(f'{{"\\ud800":{ENTRY}}}'), "lone-surrogate"),
    "12 trailing garbage": (raw(GOOD) + b"x", "trailing-bytes"),
    "13 missing last byte": (raw(GOOD)[:-1], "truncated"),
    "14 hole at start": (raw(entry(data_offsets="[8,16]"), DATA * 2), "hole"),
    "15 hole in middle": (raw(TWO % "9,17", DATA * 2 + b"x"), "hole"),
    "16 overlap": (raw(TWO % "4,12", DATA * 2), "overlap"),
    "17 reversed offsets": (raw(entry(data_offsets="[8,0]")), "reversed-offsets"),
    "18 negative offset": (raw(entry(data_offsets="[-8,0]")), "bad-offsets"),
    "19 float offset": (raw(entry(data_offsets="[0,8.0]")), "bad-offsets"),
    "20 1e3 offset": (raw(entry(data_offsets="[0,1e3]"), bytes(1000)), "bad-offsets"),
    "21 string offset": (raw(entry(data_offsets='[0,"8"]')), "bad-offsets"),
    "22 duplicate tensor": (raw(f'{{"a":{ENTRY},"a":{ENTRY}}}'), OK),
    "23 duplicate shape": (
        raw('{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}'),
        "duplicate-field",
    ),
    "24 duplicate metadata": (raw(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ENTRY}}}'), "duplicate-metadata"),
    "25 metadata number": (raw(f'{{"__metadata__":{{"k":1}},"a":{ENTRY}}}'), "bad-metadata"),
    "26 metadata nested": (raw(f'{{"__metadata__":{{"k":{{}}}},"a":{ENTRY}}}'), "bad-metadata"),
    "27 unknown dtype": (raw(entry(dtype='"F128"')), "unknown-dtype"),
    "28 lower-case dtype": (raw(entry(dtype='"f32"')), "unknown-dtype"),
    "29 F4 misaligned": (raw(entry(dtype='"F4"', shape="[3]", data_offsets="[0,2]"), b"xx"), "sub-byte"),
    "29b F4 aligned": (raw(entry(dtype='"F4"', shape="[4]", data_offsets="[0,2]"), b"xx"), OK),
    "30 shape overflow": (
        raw(entry(dtype='"U8"', shape="[9223372036854775808,2]", data_offsets="[0,0]"), b""),
        "overflow",
    ),
    "31 shape 0 with data": (raw(entry(shape="[0]")), "size-mismatch"),
    "32 10,000 dimensions": (raw(entry(shape="[" + "1," * 9999 + "2]")), OK),
    "34 1 MB name": (raw(f'{{"{"n" * 2**20}":{ENTRY}}}'), OK),
    "35 hostile name": (raw('{"\\u0000\\u001b[31m../x":' + ENTRY + "}"), OK),
    "37 depth 50,000": (raw(nested(50_000)), "too-deep"),
    "38 NaN literal": (raw(entry(x="NaN")), "bad-number"),
    "39 zip appended": (raw(GOOD) + b"PK\x05\x06" + bytes(18), "trailing-bytes"),
    "40 GGUF magic": (b"GGUF\x03\x00\x00\x00" + bytes(64), "header-too-large"),
    "40b pickle magic": (b"\x80\x02}q\x00(X\x00" + bytes(64), "header-too-large"),
    "41 all-NaN tensor": (raw(GOOD, b"\xff" * 8), OK),
    "42 Inf in lora_B": (raw(GOOD, struct.pack("<2f", float("inf"), 1)), OK),
}
# 33, 36, 46, 47 and 48 have tests of their own below; 43 to 45 are well-formed files, told by their facts elsewhere

FURTHER = {
    "empty object": (raw("{}", b""), OK),
    "entry as list": (raw('{"a":["F32",[2],[0,8]]}'), OK),
    "entry as list of four": (raw('{"a":["F32",[2],[0,8],1]}'), "bad-entry"),
    "dtype as object": (raw(entry(dtype='{"F32":null}')), OK),
    "dtype as object with value": (raw(entry(dtype='{"F32":{}}')), "unknown-dtype"),
    "unknown field": (raw(entry(x="1")), OK),
    "unknown field twice": (raw('{"a":{"x":1,"x":2,"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), OK),
    "unknown field beyond a double": (raw(entry(x="1e999")), "bad-number"),
    "unknown integer of 300 digits": (raw(entry(x="9" * 300)), OK),
    "unknown integer of 400 digits": (raw(entry(x="9" * 400)), "bad-number"),
    "unknown integer of 5,000 digits": (raw(entry(x="9" * 5000)), "bad-json"),
    "127 levels": (raw(nested(125)), OK),
    "128 levels": (raw(nested(126)), "too-deep"),
    "minus zero": (raw(entry(data_offsets="[-0,8]")), "bad-offsets"),
    "true as size": (raw(entry(dtype='"U8"', shape="[true]", data_offsets="[0,1]"), b"x"), "bad-shape"),
    "three offsets": (raw(entry(data_offsets="[0,8,8]")), "bad-offsets"),
    "shape null": (raw(entry(shape="null")), "bad-shape"),
    "missing field": (raw('{"a":{"dtype":"F32","shape":[2]}}'), "missing-field"),
    "null entry": (raw('{"a":null}', b""), "bad-entry"),
    "bad entry behind its twin": (raw(f'{{"a":3,"a":{ENTRY}}}'), "bad-entry"),
    "metadata null": (raw(f'{{"__metadata__":null,"a":{ENTRY}}}'), OK),
    "metadata null twice": (raw(f'{{"__metadata__":null,"__metadata__":null,"a":{ENTRY}}}'), "duplicate-metadata"),
    "metadata key twice": (raw(f'{{"__metadata__":{{"k":"1","k":"2"}},"a":{ENTRY}}}'), OK),
    "metadata list": (raw(f'{{"__metadata__":[],"a":{ENTRY}}}'), "bad-metadata"),
    "surrogate pair": (raw(f'{{"\\ud83d\\ude00":{ENTRY}}}'), OK),
    "low surrogate": (raw(f'{{"\\udc00":{ENTRY}}}'), "lone-surrogate"),
    "surrogate, then text": (raw(f'{{"\\ud83dx\\ude00":{ENTRY}}}'), "lone-surrogate"),
    "surrogate in an unknown field": (raw(entry(x='"\\ud800"')), "lone-surrogate"),
    "escaped backslash before u": (raw(f'{{"\\\\ud800":{ENTRY}}}'), OK),
    "overflow behind a zero": (
        raw(entry(dtype='"U8"', shape="[9223372036854775808,2,0]", data_offsets="[0,0]"), b""),
        "overflow",
    ),
    "zero before the overflow": (
        raw(entry(dtype='"U8"', shape="[0,9223372036854775808,2]", data_offsets="[0,0]"), b""),
        OK,
    ),
    "size of 2^64": (raw(entry(shape="[18446744073709551616]")), "bad-shape"),
    "empty tensor between": (raw(TWO.replace("[2]", "[0]").replace("[0,8]", "[0,0]") % "0,0", b""), OK),
    "empty tensor inside another": (
        raw(TWO.replace('"shape":[2],"data_offsets":[%s]', '"shape":[0],"data_offsets":[4,4]')),
        "overlap",
    ),
    "trailing comma": (raw(f'{{"a":{ENTRY},}}'), "bad-json"),
    "leading zero": (raw(entry(shape="[02]")), "bad-json"),
    "raw control character": (raw(f'{{"a\x01":{ENTRY}}}'), "bad-json"),
    "NUL behind the header": (raw(GOOD + "\0"), "bad-json"),
    "spaces behind the header": (raw(GOOD + " \t\r\n"), OK),
    "empty name": (raw(f'{{"":{ENTRY}}}'), OK),
}
CASES = HOSTILE | FURTHER


def reference(path: str) -> str:
    try:
        with safetensors.safe_open(path, "np") as file:
            list(file.keys())
    except safetensors.SafetensorError:
        return "rejected"
    return OK


@pytest.mark.parametrize("name", CASES)
def test_verdict_is_the_librarys(name, tmp_path):
    content, expected = CASES[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert reference(str(path)) == (OK if expected == OK else "rejected")
    for read in (lambda: read_header(path), lambda: parse_header(content, len(content))):
        if expected == OK:
            assert read().file_size == len(content)
        else:
            with pytest.raises(HeaderError) as caught:
                read()
            assert caught.value.code == expected


@pytest.mark.parametrize("count", [50_000, pytest.param(500_000, marks=pytest.mark.slow)])
def test_33_very_many_empty_tensors(count, tmp_path):
    """A file of 500,000 empty tensors is legal."""
    item = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw("{" + ",".join(item % number for number in range(count)) + "}", b""))
    assert reference(str(path)) == OK
    assert len(read_header(path).tensors) == count


def test_36_99_megabytes_of_spaces(tmp_path):
    """Spaces up to the header limit are legal."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw("{" + " " * 99_000_000 + "}", b""))
    assert reference(str(path)) == OK
    assert read_header(path).tensors == {}


def test_stricter_than_the_library_only_in_the_number_of_values():
    """More than 8,000,000 values in one header are refused for the memory they would take."""
    text = entry(x="[" + "[]," * 4_000_000 + "[]]")
    with pytest.raises(HeaderError) as caught:
        parse_header(raw(text), len(raw(text)))
    assert caught.value.code == "too-many-values"


def test_47_sparse_terabyte_is_read_in_its_header_only(tmp_path):
    """A 1 TB file costs no more than its header."""
    text = entry(dtype='"U8"', shape=f"[{2**40}]", data_offsets=f"[0,{2**40}]")
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(text, b""))
    os.truncate(path, 8 + len(text) + 2**40)
    assert read_header(path).tensors["a"].size == 2**40


def test_header_is_told_as_it_stands(tmp_path):
    """Tensors come in the order of their bytes; the last of two equal names wins."""
    text = (
        '{"__metadata__":{"format":"pt"},"b":{"dtype":"I8","shape":[3],"data_offsets":[0,3]},'
        '"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[3,7]},"b":{"dtype":"U8","shape":[],"data_offsets":[7,8]},'
        '"c":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    )
    header = parse_header(raw(text), len(raw(text)))
    assert [(i.name, i.dtype, i.shape, i.start, i.end) for i in header.tensors.values()] == [
        ("c", "U8", (3,), 0, 3),
        ("a", "BF16", (1, 2), 3, 7),
        ("b", "U8", (), 7, 8),
    ]
    assert (header.metadata, header.data_offset) == ({"format": "pt"}, 8 + len(text))


class TestWhatIsNoRegularFile:
    """48: nothing but a regular file is opened, and nothing waits."""

    def code(self, path):
        with pytest.raises(HeaderError) as caught:
            read_header(path)
        return caught.value.code

    def test_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "x")
        assert self.code(tmp_path / "x") == "not-regular"

    def test_symbolic_link_to_a_good_file(self, tmp_path):
        (tmp_path / "good").write_bytes(raw(GOOD))
        (tmp_path / "x").symlink_to(tmp_path / "good")
        assert self.code(tmp_path / "x") == "not-regular"

    def test_folder(self, tmp_path):
        assert self.code(tmp_path) == "not-regular"

    def test_device(self):
        assert self.code(Path("/dev/zero")) == "not-regular"

    def test_missing(self, tmp_path):
        assert self.code(tmp_path / "x") == "missing"
