"""The two digests of a base, recomputed here from their definition."""

import hashlib
import json
import os

import pytest

from engine.format.fingerprint import fingerprint, layout, sample_digest, sample_ranges


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10, 10, ()),
        (10, 11, ((10, 1),)),
        (0, 12288, ((0, 12288),)),
        (0, 12289, ((0, 4096), (4096, 4096), (8193, 4096))),
        (100, 100 + 40960, ((100, 4096), (100 + 18432, 4096), (100 + 36864, 4096))),
    ],
)
def test_samples_are_the_first_middle_and_last_4_kib(start, end, expected):
    assert sample_ranges(start, end) == expected


def test_a_sample_hashes_only_its_windows(tmp_path):
    content = bytearray(os.urandom(40960))
    path = tmp_path / "weights"
    expected = hashlib.sha256(content[:4096] + content[18432:22528] + content[36864:]).hexdigest()
    content[5000] ^= 1  # between the windows
    path.write_bytes(content)

    with path.open("rb") as stream:
        assert sample_digest(stream.fileno(), 0, 40960) == expected


def test_a_short_file_is_an_error(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")

    with path.open("rb") as stream, pytest.raises(EOFError, match="expected 8 bytes at offset 0, found 3"):
        sample_digest(stream.fileno(), 0, 8)


def _sha(rows):
    return "sha256:" + hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def test_the_fingerprint_is_over_sorted_rows():
    rows = [("b", "F32", (2, 3), "11"), ("a", "BF16", (), "22")]

    assert fingerprint(rows) == _sha([["a", "BF16", [], "22"], ["b", "F32", [2, 3], "11"]])
    assert fingerprint(reversed(rows)) == fingerprint(rows)


@pytest.mark.parametrize("change", [("b", "F16", (2, 3), "11"), ("b", "F32", (3, 2), "11"), ("c", "F32", (2, 3), "11")])
def test_dtype_shape_and_name_change_the_fingerprint(change):
    assert fingerprint([change]) != fingerprint([("b", "F32", (2, 3), "11")])


def test_the_layout_is_over_sorted_names_and_shapes():
    assert layout({"b": (2,), "a": (3, 4)}) == _sha([["a", [3, 4]], ["b", [2]]])
