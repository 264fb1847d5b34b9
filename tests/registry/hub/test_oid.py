"""Hashes as git and git-lfs name contents. Expected values were printed by `git hash-object` and `sha256sum`."""

import os

import pytest

from registry.errors import CorruptError, TransientError, UnavailableError
from registry.hub.listing import HubFile
from registry.hub.meter import meter
from registry.hub.oid import Oid, parse_oid

GIT = Oid("git", "ce013625030ba8dba906f756967f9e9ca394464a")
SHA256 = Oid("sha256", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("oid", [GIT, SHA256])
def test_a_files_content_has_the_name_that_git_gives_it(tmp_path, oid):
    (tmp_path / "x").write_bytes(b"hello\n")
    with (tmp_path / "x").open("rb") as file:
        os.lseek(file.fileno(), 3, os.SEEK_SET)

        assert oid.of_file(file.fileno()) == oid
        assert os.read(file.fileno(), 9) == b"hello\n"


@pytest.mark.parametrize("oid", [GIT, SHA256])
def test_bytes_have_the_same_name(oid):
    assert oid.of_bytes(b"hello\n") == oid
    assert oid.of_bytes(b"hello") != oid


def test_the_empty_blob_has_its_well_known_name():
    assert GIT.of_bytes(b"").hex == EMPTY


def test_the_kind_is_told():
    assert str(GIT) == f"git-sha1:{GIT.hex}"
    assert str(SHA256) == f"sha256:{SHA256.hex}"


@pytest.mark.parametrize("text", [None, "", "0" * 39, "0" * 41, "G" * 40, "A" * 40, 7, "../" + "0" * 37])
def test_what_no_oid_can_be_is_refused(text):
    with pytest.raises(UnavailableError, match=r"x\.json"):
        parse_oid("git", text, path="x.json")


class TestMeter:
    def made(self, size, **options):
        told = []
        made = meter(HubFile("x.bin", size, GIT), lambda *step: told.append(step), "fetching x.bin")(**options)
        return made, told

    def test_tells_how_far_it_is(self):
        bar, told = self.made(10)
        with bar:
            bar.update(4)
            bar.update(6)

        assert told == [("fetching x.bin", 4, 10), ("fetching x.bin", 10, 10)]

    def test_more_than_was_listed_is_wrong_bytes(self):
        bar, _ = self.made(10)
        bar.update(10)

        with pytest.raises(CorruptError, match="expected 10 bytes, found more"):
            bar.update(1)

    def test_starting_over_is_allowed_a_few_times(self):
        bar, _ = self.made(10)
        for _ in range(4):
            bar.update(9)
            bar.update(-9)

        with pytest.raises(TransientError, match="breaks off each time"):
            bar.update(9)

    def test_a_resumed_download_starts_where_it_was(self):
        bar, told = self.made(10, initial=8)
        bar.update(2)

        assert told == [("fetching x.bin", 10, 10)]
