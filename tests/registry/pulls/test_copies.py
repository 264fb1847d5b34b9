"""A pulled version in the caller's folder: from the cache, without the store, and never with a wrong byte."""

import os
import shutil
import subprocess
from contextlib import closing

import pytest

from registry.errors import ConflictError, CorruptError, UnavailableError
from registry.pulls import copies
from tests.registries import make_adapter, open_registry
from tests.registry.places import needs
from tests.registry.power.disks import disks


@pytest.fixture
def source(tmp_path):
    return make_adapter(tmp_path / "source")


@pytest.fixture
def registry(tmp_path, source):
    opened = open_registry(tmp_path / "home")
    opened.push(source, "team/sql")
    yield opened
    opened.close()


@pytest.fixture
def cached(registry):
    """The version is in the cache, and its blobs are gone."""
    folder = registry.pull("team/sql")
    shutil.rmtree(registry.settings.blobs)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_a_copy_comes_from_the_cache_without_the_store(registry, cached, source, tmp_path):
    registry.pull("team/sql", to=tmp_path / "mine")

    assert content(tmp_path / "mine") == content(source)
    assert os.access(tmp_path / "mine/adapter_config.json", os.W_OK)


def test_a_copy_shares_nothing_that_an_edit_would_reach(registry, cached, source, tmp_path):
    registry.pull("team/sql", to=tmp_path / "mine")
    (tmp_path / "mine/adapter_config.json").write_bytes(b"edited")

    assert content(cached) == content(source)


def test_a_local_store_is_copied_from_straight(registry, source, tmp_path):
    """Otherwise each version would lie there three times."""
    registry.pull("team/sql", to=tmp_path / "mine")

    assert content(tmp_path / "mine") == content(source)
    assert registry.cache() == ()


def test_a_far_store_fills_the_cache_once(tmp_path, source, s3_url):
    registry = open_registry(tmp_path / "home", store_url=s3_url)
    registry.push(source, "team/sql")
    registry.pull("team/sql", to=tmp_path / "one")
    (entry,) = registry.cache()
    inode = entry.path.stat().st_ino

    registry.pull("team/sql", to=tmp_path / "two")
    registry.close()

    assert content(tmp_path / "one") == content(tmp_path / "two") == content(source)
    assert entry.path.stat().st_ino == inode


def test_a_digest_is_copied_out_with_database_and_store_down(registry, cached, source, tmp_path):
    """P8, with --to."""
    down = open_registry(registry.settings.home, "postgresql+psycopg://nobody@127.0.0.1:1/none")

    result = down.pull_result(f"team/sql@sha256:{cached.name[:20]}", to=tmp_path / "mine")

    assert result.path == tmp_path / "mine"
    assert content(tmp_path / "mine") == content(source)
    with pytest.raises(UnavailableError):
        down.pull("team/sql", to=tmp_path / "other")


def test_a_damaged_cache_is_repaired_on_the_way(registry, source, tmp_path):
    folder = registry.pull("team/sql")
    damage(folder / "adapter_model.safetensors")

    registry.pull("team/sql", to=tmp_path / "mine")

    assert content(tmp_path / "mine") == content(source)
    assert content(folder) == content(source)


def test_a_damaged_cache_without_a_store_gives_nothing(registry, cached, tmp_path):
    damage(cached / "adapter_model.safetensors")

    with pytest.raises((CorruptError, UnavailableError)):
        registry.pull("team/sql", to=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_what_is_at_the_destination_stays(registry, cached, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_bytes(b"keep")

    with pytest.raises(ConflictError):
        registry.pull("team/sql", to=tmp_path / "mine")
    assert content(tmp_path / "mine") == {"notes": b"keep"}


def test_a_cache_that_cannot_be_written_is_passed_by(tmp_path, source, s3_url):
    registry = open_registry(tmp_path / "home", store_url=s3_url)
    registry.push(source, "team/sql")
    registry.settings.pulled.write_bytes(b"a file where the folder should be")

    registry.pull("team/sql", to=tmp_path / "mine")
    registry.close()

    assert content(tmp_path / "mine") == content(source)


class TestLinks:
    def test_files_are_the_caches_own_and_read_only(self, registry, cached, source, tmp_path):
        registry.pull("team/sql", to=tmp_path / "mine", link=True)

        for path in (tmp_path / "mine").iterdir():
            assert path.samefile(cached / path.name)
            assert path.stat().st_mode & 0o777 == 0o444
        assert content(tmp_path / "mine") == content(source)

    def test_they_outlive_the_cache(self, registry, source, tmp_path):
        registry.pull("team/sql", to=tmp_path / "mine", link=True)
        registry.prune_cache(keep=0)

        assert registry.cache() == ()
        assert content(tmp_path / "mine") == content(source)

    def test_an_edit_through_one_is_found_and_replaced(self, registry, source, tmp_path):
        registry.pull("team/sql", to=tmp_path / "mine", link=True)
        damage(tmp_path / "mine/adapter_model.safetensors")

        assert content(registry.pull("team/sql")) == content(source)

    def test_another_file_system_gets_read_only_copies(self, registry, cached, source, tmp_path, monkeypatch):
        def refused(*_, **__):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(copies.os, "link", refused)
        registry.pull("team/sql", to=tmp_path / "mine", link=True)

        for path in (tmp_path / "mine").iterdir():
            assert not path.samefile(cached / path.name)
            assert path.stat().st_mode & 0o777 == 0o444
        assert content(tmp_path / "mine") == content(source)


def extents(path):
    """Where the bytes of a file lie on its disk."""
    found = subprocess.run(["filefrag", "-v", path], capture_output=True, text=True, check=True).stdout
    return [line.split()[3] for line in found.splitlines() if line.split()[0].rstrip(":").isdigit()]


@pytest.fixture
def reflinking():
    """A registry with team/sql on a file system that lets files share blocks."""
    needs("filefrag is not installed", shutil.which("filefrag") is not None, promised=False)
    with disks("xfs") as (disk,):
        disk.make()  # mkfs.xfs makes reflink=1 unless told otherwise
        with disk.plugged_in(), closing(open_registry(disk.place / "home")) as opened:
            opened.push(make_adapter(disk.place / "source"), "team/sql")
            yield opened


def test_a_clone_shares_its_blocks_until_one_side_is_edited(reflinking):
    cached = reflinking.pull("team/sql")
    mine = reflinking.pull("team/sql", to=reflinking.settings.home.parent / "mine")
    weights, own = (place / "adapter_model.safetensors" for place in (cached, mine))
    before = weights.read_bytes()

    assert extents(own) == extents(weights) != []
    assert own.stat().st_ino != weights.stat().st_ino and os.access(own, os.W_OK)
    damage(own)
    os.sync()
    assert weights.read_bytes() == before
    assert extents(own) != extents(weights)


def test_a_clone_of_wrong_bytes_is_found_like_a_copy(reflinking):
    """What is hashed is the clone itself."""
    cached = reflinking.pull("team/sql")
    mine = reflinking.settings.home.parent / "mine"
    shutil.rmtree(reflinking.settings.blobs)
    damage(cached / "adapter_model.safetensors")

    with pytest.raises((CorruptError, UnavailableError)):
        reflinking.pull("team/sql", to=mine)
    assert not mine.exists()
