"""The store's promises, one suite for every backend: a second one is added to `store` below."""

import hashlib
import multiprocessing
import os
import socket
import stat

import obstore
import pytest

from registry.errors import (
    ConflictError,
    CorruptError,
    IntakeError,
    MissingBlobError,
    UnavailableError,
    UsageError,
)
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.objects import ObjectStore
from registry.store.folder import FolderStore
from registry.store.storeurl import parse_store_url

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # printf hello | sha256sum
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256sum </dev/null
ABSENT = "sha256:" + "0" * 64
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path):
    return FolderStore(tmp_path / "blobs", tmp_path / "staging")


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    """What every store does, a folder and a bucket."""
    if request.param == "local":
        return request.getfixturevalue("folder")
    return ObjectStore(Bucket(parse_store_url(request.getfixturevalue("s3_url"))), tmp_path / "staging")


def damage(store, digest, content):
    """Writes other bytes where a blob lies, as rot or a stray program would."""
    if isinstance(store, ObjectStore):
        name = digest.removeprefix("sha256:")
        obstore.put(store.bucket.client, f"sha256/{name[:2]}/{name}", bytes(content))
        return
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(content)


class TestPutting:
    def test_the_digest_is_the_sha256_of_the_bytes(self, store):
        assert store.put_bytes(b"hello") == HELLO

    def test_nothing_at_all_is_a_blob_too(self, store):
        assert store.put_bytes(b"") == EMPTY
        assert store.read_bytes(EMPTY) == b""

    @pytest.mark.parametrize("size", [1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 16 * MIB, 70 * MIB + 3])
    def test_a_file_of_any_size_arrives_whole(self, store, tmp_path, size):
        """Sizes around one chunk, around the ring of four chunks, and past the first flush at 64 MiB."""
        content = (os.urandom(MIB) * (size // MIB + 1))[:size]
        source = tmp_path / "source"
        source.write_bytes(content)
        expected = "sha256:" + hashlib.sha256(content).hexdigest()

        with store.staging() as staging:
            staged = staging.add(source, name="weights.safetensors")
            store.place(staged)

        assert (staged.digest, staged.size) == (expected, size)
        with store.open(expected) as file:
            assert file.read() == content

    def test_a_descriptor_is_read_from_where_it_stands(self, store, tmp_path):
        (tmp_path / "source").write_bytes(b">>hello")
        descriptor = os.open(tmp_path / "source", os.O_RDONLY)
        os.lseek(descriptor, 2, os.SEEK_SET)

        with store.staging() as staging:
            assert staging.add(descriptor, name="x").digest == HELLO
        os.close(descriptor)

    def test_staged_files_keep_their_names_until_they_are_placed(self, store):
        with store.staging() as staging:
            staged = staging.add(b"hello", name="sub/adapter_config.json")

            assert staged.path == staging.folder / "sub/adapter_config.json"
            assert staged.path.read_bytes() == b"hello"
            assert not store.exists(HELLO)

    def test_two_files_with_the_same_bytes_are_one_blob(self, store):
        with store.staging() as staging:
            store.place(staging.add(b"hello", name="a"), staging.add(b"hello", name="b"))

        assert [blob.digest for blob in store.list()] == [HELLO]

    def test_placing_again_replaces_a_damaged_blob(self, store):
        store.put_bytes(b"hello")
        damage(store, HELLO, b"hellO")

        store.put_bytes(b"hello")

        assert store.read_bytes(HELLO) == b"hello"

    def test_what_was_not_placed_is_gone_afterwards(self, store):
        with pytest.raises(KeyError), store.staging() as staging:
            staging.add(b"hello", name="sub/a")
            raise KeyError

        assert list(store.list()) == []
        assert not staging.folder.exists()

    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a\0b", "sub/", "C:\\x"])
    def test_a_name_that_leaves_the_staging_folder_is_refused(self, store, name):
        with store.staging() as staging, pytest.raises(UsageError):
            staging.add(b"hello", name=name)

    def test_a_name_is_staged_once(self, store):
        with store.staging() as staging:
            staging.add(b"hello", name="a")
            with pytest.raises(UsageError, match="a is staged already"):
                staging.add(b"other", name="a")
            assert (staging.folder / "a").read_bytes() == b"hello"

    def test_processes_placing_the_same_blob_all_succeed(self, store):
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=store.put_bytes, args=(b"hello",)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)

        assert [worker.exitcode for worker in workers] == [0] * 4
        assert store.read_bytes(HELLO) == b"hello"


class TestSources:
    def test_a_link_is_refused(self, store, tmp_path):
        (tmp_path / "secret").write_bytes(b"hello")
        (tmp_path / "link").symlink_to(tmp_path / "secret")

        with store.staging() as staging, pytest.raises(IntakeError, match="link: cannot be read"):
            staging.add(tmp_path / "link", name="a")

    def test_a_pipe_is_refused_without_waiting_for_a_writer(self, store, tmp_path):
        os.mkfifo(tmp_path / "pipe")

        with (
            store.staging() as staging,
            pytest.raises(IntakeError, match=r"pipe: cannot be read: .*not a regular file"),
        ):
            staging.add(tmp_path / "pipe", name="a")

    def test_a_socket_is_refused(self, store, tmp_path):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            with store.staging() as staging, pytest.raises(IntakeError):
                staging.add(tmp_path / "socket", name="a")

    @pytest.mark.parametrize("place", ["/dev/zero", "."])
    def test_devices_and_folders_are_refused(self, store, tmp_path, place):
        with store.staging() as staging, pytest.raises(IntakeError, match="cannot be read"):
            staging.add(tmp_path / place, name="a")

    def test_a_missing_file_is_named(self, store, tmp_path):
        with store.staging() as staging, pytest.raises(IntakeError, match="absent: cannot be read: No such file"):
            staging.add(tmp_path / "absent", name="a")


class TestReading:
    def test_the_layout_is_sha256_two_letters_and_all_letters(self, folder, tmp_path):
        folder.put_bytes(b"hello")

        path = tmp_path / "blobs/sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        assert folder.path(HELLO) == path
        assert path.read_bytes() == b"hello"

    def test_a_blob_is_read_only(self, folder):
        folder.put_bytes(b"hello")

        assert stat.S_IMODE(folder.path(HELLO).stat().st_mode) == 0o444

    def test_size_and_existence(self, store):
        store.put_bytes(b"hello")

        assert (store.size(HELLO), store.exists(HELLO), store.exists(ABSENT)) == (5, True, False)

    @pytest.mark.parametrize("content", [b"hellO", b"hell", b"hello!", b""])
    def test_wrong_bytes_are_never_returned(self, store, tmp_path, content):
        """Flipped, truncated, extended, emptied."""
        store.put_bytes(b"hello")
        damage(store, HELLO, content)
        actual = "sha256:" + hashlib.sha256(content).hexdigest()

        for read in (store.read_bytes, store.verify, lambda digest: store.copy_to(digest, tmp_path / "out")):
            with pytest.raises(CorruptError) as caught:
                read(HELLO)
            assert (caught.value.expected, caught.value.actual) == (HELLO, actual)
        assert not (tmp_path / "out").exists()

    def test_a_bit_flipped_anywhere_in_a_large_blob_is_found(self, store, tmp_path):
        content = bytearray(os.urandom(9 * MIB))
        digest = store.put_bytes(bytes(content))
        for position in (0, 4 * MIB - 1, 4 * MIB, 9 * MIB - 1):
            wrong = content.copy()
            wrong[position] ^= 1
            damage(store, digest, wrong)

            with pytest.raises(CorruptError):
                store.copy_to(digest, tmp_path / "out")
            with pytest.raises(CorruptError):
                store.verify(digest)

    def test_a_copy_is_whole_and_has_the_mode_asked_for(self, store, tmp_path):
        store.put_bytes(b"hello")

        assert store.copy_to(HELLO, tmp_path / "out", mode=0o640) == 5
        assert (tmp_path / "out").read_bytes() == b"hello"
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640

    def test_a_copy_is_no_link_to_the_blob(self, store, tmp_path):
        store.put_bytes(b"hello")
        store.copy_to(HELLO, tmp_path / "out", mode=0o644)
        (tmp_path / "out").write_bytes(b"changed")

        assert store.read_bytes(HELLO) == b"hello"

    def test_a_copy_never_overwrites(self, store, tmp_path):
        store.put_bytes(b"hello")
        (tmp_path / "out").write_bytes(b"mine")

        with pytest.raises(ConflictError, match="out exists already"):
            store.copy_to(HELLO, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"mine"

    def test_a_missing_blob_is_told_apart_from_a_missing_store(self, folder):
        with pytest.raises(UnavailableError, match="no blob store here"):
            folder.read_bytes(ABSENT)
        folder.put_bytes(b"hello")
        with pytest.raises(MissingBlobError, match="no file"):
            folder.read_bytes(ABSENT)

    def test_a_link_in_place_of_a_blob_is_wrong_bytes(self, folder, tmp_path):
        folder.put_bytes(b"hello")
        (tmp_path / "elsewhere").write_bytes(b"hello")
        folder.path(HELLO).unlink()
        folder.path(HELLO).symlink_to(tmp_path / "elsewhere")

        with pytest.raises(CorruptError, match="no regular file"):
            folder.read_bytes(HELLO)

    def test_a_folder_in_place_of_a_blob_is_wrong_bytes(self, folder):
        folder.path(HELLO).mkdir(parents=True)

        with pytest.raises(CorruptError, match="no regular file"):
            folder.verify(HELLO)

    @pytest.mark.parametrize(
        "digest",
        [
            "sha256:../../../etc/passwd",
            "sha256:" + "0" * 63,
            "sha256:" + "0" * 65,
            "sha256:" + "A" * 64,
            "SHA256:" + "0" * 64,
            "md5:" + "0" * 64,
            "0" * 64,
            HELLO + "\n",
            "sha256:" + "٠" * 64,
            "",
        ],
    )
    def test_only_whole_digests_become_paths(self, store, digest):
        for method in (store.open, store.read_bytes, store.delete, store.exists, store.size, store.verify):
            with pytest.raises(UsageError):
                method(digest)


class TestUpkeep:
    def test_list_names_every_blob_with_its_size_in_order(self, store):
        store.put_bytes(b"hello")
        store.put_bytes(b"")

        assert [(blob.digest, blob.size) for blob in store.list()] == [(HELLO, 5), (EMPTY, 0)]

    def test_an_empty_or_absent_store_lists_nothing(self, store):
        assert list(store.list()) == []
        assert list(store.strays()) == []

    def test_what_is_no_blob_is_a_stray_and_not_listed(self, folder, tmp_path):
        folder.put_bytes(b"hello")
        root = tmp_path / "blobs/sha256"
        name = HELLO.removeprefix("sha256:")
        (root / "2c" / "notes.txt").touch()
        (root / "README").touch()
        (root / "ff").mkdir()
        (root / "ff" / name).touch()
        (root / "2c" / ("2c" + "0" * 62)).symlink_to(folder.path(HELLO))

        assert [blob.digest for blob in folder.list()] == [HELLO]
        assert {os.path.relpath(path, root) for path in folder.strays()} == {
            "2c/notes.txt",
            "2c/2c" + "0" * 62,
            "README",
            "ff/" + name,
        }

    def test_delete_says_whether_there_was_anything(self, store):
        store.put_bytes(b"hello")

        assert store.delete(HELLO) is True
        assert store.delete(HELLO) is False
        assert list(store.list()) == []

    def test_a_blob_that_is_open_stays_readable_after_its_deletion(self, store):
        store.put_bytes(b"hello")
        with store.open(HELLO) as file:
            store.delete(HELLO)

            assert file.read() == b"hello"
