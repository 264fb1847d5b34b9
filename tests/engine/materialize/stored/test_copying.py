"""Bytes by the kernel, and by hand where the kernel cannot."""

import errno
import os

import pytest

from engine.errors import HeaderError
from engine.materialize.stored.copying import copy_range


@pytest.fixture
def pair(tmp_path):
    """An open source of 20 MB and an open empty target."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(20_000_000))
    descriptors = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    yield (*descriptors, source)
    for descriptor in descriptors:
        os.close(descriptor)


def refusing(code, calls):
    def refuse(*_):
        calls.append(1)
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_range_lands_at_its_place(pair):
    reading, writing, file = pair
    copy_range(reading, 1000, writing, 77, 12_345_678, file=file)
    assert os.pread(writing, 12_345_678, 77) == os.pread(reading, 12_345_678, 1000)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_kernel_cannot_the_bytes_are_the_same(pair, monkeypatch, code):
    reading, writing, file = pair
    calls = []
    monkeypatch.setattr(os, "copy_file_range", refusing(code, calls))
    copy_range(reading, 5, writing, 0, 19_999_995, file=file)
    assert os.pread(writing, 20_000_000, 0) == os.pread(reading, 20_000_000, 5)
    assert calls


def test_a_full_disk_is_no_reason_to_try_by_hand(pair, monkeypatch):
    reading, writing, file = pair
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSPC, []))
    with pytest.raises(OSError, match="No space left"):
        copy_range(reading, 0, writing, 0, 10, file=file)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_source_that_ends_before_is_named(pair, monkeypatch, by_hand):
    reading, writing, file = pair
    if by_hand:
        monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV, []))
    with pytest.raises(HeaderError, match="became shorter") as caught:
        copy_range(reading, 19_999_990, writing, 0, 11, file=file)
    assert caught.value.path == file
