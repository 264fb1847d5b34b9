"""Mutated headers: the reader accepts a file exactly when the safetensors library does."""

import json
import struct

import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import HeaderError
from engine.format.files.header import parse_header
from tests.engine.format.adapters import raw

SIZES = {"F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1, "I64": 8, "C64": 8}
TOKENS = [b"0", b"1", b"-0", b"8", b"1e2", b"null", b"true", b'"F32"', b"[", b"]", b"{", b"}", b",", b":", b'"', b" "]
TOKENS += [b'"shape":[2],', b'"x":[1],', b"\\", b"\\u", b"d83d", b"\xff", b"F4", b"e", b".5", b"99999999999999999999"]


@st.composite
def valid(draw):
    """A valid header's bytes and the bytes behind it."""
    document, end = {}, 0
    for number in range(draw(st.integers(0, 3))):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = SIZES[dtype]
        for dimension in shape:
            size *= dimension
        document[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    if draw(st.booleans()):
        document["__metadata__"] = {"format": "pt"}
    return json.dumps(document, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode(), bytes(end)


@st.composite
def mutated(draw):
    text, data = draw(valid())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 6))
        text = text[:at] + draw(st.sampled_from([b"", *TOKENS])) + text[at + cut :]
    length = len(text) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return raw(text, data + draw(st.sampled_from([b"", b"", b"", b"x"])), length=max(length, 0))


def ours(content: bytes):
    try:
        header = parse_header(content, len(content))
    except HeaderError:
        return None
    return {name: (info.dtype, info.shape, info.size) for name, info in header.tensors.items()}


def library(content: bytes):
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (info["dtype"], tuple(info["shape"]), len(info["data"])) for name, info in found}


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_reader_and_library_agree_on_mutations(content):
    assert ours(content) == library(content)


@settings(max_examples=100, deadline=None)
@given(valid())
def test_valid_files_are_read(parts):
    text, data = parts
    assert ours(raw(text, data)) is not None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_random_bytes_as_header(text):
    content = struct.pack("<Q", len(text)) + text
    assert ours(content) == library(content)
