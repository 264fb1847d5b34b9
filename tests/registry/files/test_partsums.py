"""The sums of a file's parts, as they are made while it is staged."""

import hashlib
import os

import pytest

from registry.files import partsums
from registry.files.partsums import PartSums, Summing, part_size
from registry.files.scratch import scratch_folder
from registry.files.staging import Staging
from registry.files.transfer import CHUNK

MIB = 1 << 20
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # printf hello | sha256sum


def stage(tmp_path, content, *, summed=True):
    with scratch_folder(tmp_path) as folder:
        return Staging(folder, None, summed).add(content, name="file")


def test_the_composite_of_two_parts_is_what_s3_computes():
    """printf '%s%s' HELLO HELLO | xxd -r -p | sha256sum | xxd -r -p | base64"""
    sums = PartSums(5, (bytes.fromhex(HELLO),) * 2)

    assert sums.composite == "HSXBmho/tlx40BhWEFc2KRbBS/02t1qoyw9NaWKTsYM="


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 33 * MIB])
def test_they_are_the_sha256_of_each_sixteen_mebibytes_and_a_rest(tmp_path, monkeypatch, size):
    monkeypatch.setattr(partsums, "LARGE", 1)
    content = os.urandom(size)
    parts = [content[start : start + 16 * MIB] for start in range(0, size, 16 * MIB)]

    file = stage(tmp_path, content)

    assert file.parts == PartSums(16 * MIB, tuple(hashlib.sha256(part).digest() for part in parts))
    assert file.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(("size", "summed"), [(256 * MIB - 1, True), (256 * MIB, False)])
def test_small_files_and_other_stores_have_none(tmp_path, size, summed):
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(size)

    assert stage(tmp_path / "staging", source, summed=summed).parts is None


@pytest.mark.parametrize("size", [1, 160_000 * MIB + 1, 5 << 40])
def test_ten_thousand_parts_of_whole_chunks_hold_any_file(size):
    assert part_size(size) * 10_000 >= size
    assert part_size(size) % CHUNK == 0


def test_no_part_is_left_over_at_a_border():
    summing = Summing(1)
    for _ in range(8):
        summing.update(memoryview(bytes(CHUNK)))

    assert len(summing.done().sums) == 2
