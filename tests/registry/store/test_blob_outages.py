"""A full disk, a read-only mount, a broken disk: one error that names the place, nothing acknowledged, nothing left."""

import errno
import os

import pytest

from registry.errors import UnavailableError
from registry.files import disk, transfer
from registry.files.checkout import checkout
from registry.results import FileEntry
from registry.store.folder import FolderStore
from tests.registry.places import mounted, remount

MIB = 1 << 20


@pytest.fixture
def tiny():
    """A store on a file system of 2 MiB."""
    with mounted("tmpfs", "-o", "size=2m") as place:
        yield FolderStore(place / "blobs", place / "staging")


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_full_disk_refuses_the_file_and_keeps_what_is_stored(tiny):
    kept = tiny.put_bytes(b"kept")
    with tiny.staging() as staging:
        with pytest.raises(UnavailableError, match=r"big\.bin: No space left on device"):
            staging.add(os.urandom(3 * MIB), name="big.bin")
        assert files_below(staging.folder) == []

    assert [blob.digest for blob in tiny.list()] == [kept]
    assert tiny.put_bytes(b"there is room again") in {blob.digest for blob in tiny.list()}


def test_a_large_file_fails_in_the_pipeline_too(tiny, tmp_path):
    """Over one chunk the copy runs in three threads."""
    (tmp_path / "big").write_bytes(bytes(9 * MIB))
    with tiny.staging() as staging:
        with pytest.raises(UnavailableError, match="No space left on device"):
            staging.add(tmp_path / "big", name="big.bin")
        assert files_below(staging.folder) == []


def test_a_checkout_onto_a_full_disk_leaves_nothing(tiny, tmp_path):
    store = FolderStore(tmp_path / "blobs", tmp_path / "staging")
    content = os.urandom(3 * MIB)
    files = [FileEntry("big.bin", store.put_bytes(content), len(content))]
    place = tiny.root.parent

    with pytest.raises(UnavailableError, match="No space left on device"):
        checkout(store, files, place / "out")
    assert list(place.iterdir()) == []


def test_a_read_only_mount_can_be_read_and_refuses_to_be_written(tiny, tmp_path):
    digest = tiny.put_bytes(b"kept")
    remount(tiny.root.parent, "ro")

    assert tiny.read_bytes(digest) == b"kept"
    with pytest.raises(UnavailableError, match="Read-only file system"):
        tiny.put_bytes(b"new")
    with pytest.raises(UnavailableError, match="Read-only file system"):
        tiny.delete(digest)
    with pytest.raises(UnavailableError, match="Read-only file system"):
        checkout(tiny, [FileEntry("a", digest, 4)], tiny.root.parent / "out")


def test_staging_on_another_file_system_is_an_error_not_a_copy(tiny, tmp_path):
    store = FolderStore(tiny.root, tmp_path / "staging")
    with pytest.raises(UnavailableError, match="Invalid cross-device link"):
        store.put_bytes(b"hello")
    assert list(store.list()) == []


@pytest.mark.parametrize("size", [5, 9 * MIB])
def test_a_failed_fsync_is_never_acknowledged_nor_tried_again(tmp_path, monkeypatch, size):
    """After EIO the kernel may call the pages clean: a second fsync would succeed over lost bytes."""
    calls = []

    def broken(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = FolderStore(tmp_path / "blobs", tmp_path / "staging")
    with store.staging() as staging:
        monkeypatch.setattr(transfer.os, "fsync", broken)
        with pytest.raises(UnavailableError, match="a: Input/output error"):
            store.place(staging.add(bytes(size), name="a"))
        monkeypatch.undo()
    assert files_below(store.staging_root) == []
    assert len(calls) == 1
    assert list(store.list()) == []


def test_a_failed_early_flush_counts_although_the_last_fsync_succeeds(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(transfer.os, "fdatasync", broken)
    monkeypatch.setattr(transfer, "_FLUSH_EVERY", 4 * MIB)
    store = FolderStore(tmp_path / "blobs", tmp_path / "staging")
    with store.staging() as staging, pytest.raises(UnavailableError, match="Input/output error"):
        staging.add(bytes(9 * MIB), name="a")


def test_a_folder_that_cannot_be_synced_is_not_acknowledged(tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "blobs", tmp_path / "staging")
    store.put_bytes(b"first")

    def broken(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    with store.staging() as staging:
        staged = staging.add(b"hello", name="a")
        monkeypatch.setattr(disk, "sync_folder", broken)
        with pytest.raises(UnavailableError, match="Input/output error"):
            store.place(staged)
