"""A version's directory appears whole or not at all."""

import os
import stat

import pytest

from registry.errors import ConflictError, CorruptError, MissingBlobError
from registry.files.checkout import checkout, checkout_to, difference
from registry.results import FileEntry
from registry.store.folder import FolderStore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "blobs", tmp_path / "staging")


@pytest.fixture
def files(store):
    contents = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(5 * MIB), "sub/deep/a.txt": b"a"}
    return [FileEntry(path, store.put_bytes(content), len(content)) for path, content in contents.items()]


def damage(store, digest):
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"wrong")


def modes(folder):
    """Path to permission bits, for everything below and the folder itself."""
    every = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(stat.S_IMODE(path.lstat().st_mode)) for path in every}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestCheckout:
    def test_it_holds_exactly_the_files(self, store, files, tmp_path):
        checkout(store, files, tmp_path / "out")

        assert (tmp_path / "out/adapter_config.json").read_bytes() == b"{}"
        assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == bytes(5 * MIB)
        assert (tmp_path / "out/sub/deep/a.txt").read_bytes() == b"a"
        assert sum(len(found) for _, _, found in os.walk(tmp_path / "out")) == 3

    def test_a_shared_one_is_read_only_throughout(self, store, files, tmp_path):
        checkout(store, files, tmp_path / "out")

        assert modes(tmp_path / "out") == {
            ".": "0o555",
            "adapter_config.json": "0o444",
            "adapter_model.safetensors": "0o444",
            "sub": "0o555",
            "sub/deep": "0o555",
            "sub/deep/a.txt": "0o444",
        }

    def test_missing_parents_are_made(self, store, files, tmp_path):
        checkout(store, files, tmp_path / "a/b/out")

        assert difference(tmp_path / "a/b/out", files) is None

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_one_wrong_blob_leaves_nothing(self, store, files, tmp_path, which):
        damage(store, files[which].sha256)
        before = names(tmp_path)

        with pytest.raises(CorruptError, match="wrong bytes"):
            checkout(store, files, tmp_path / "out")
        assert names(tmp_path) == before

    def test_one_missing_blob_leaves_nothing(self, store, files, tmp_path):
        store.delete(files[0].sha256)
        before = names(tmp_path)

        with pytest.raises(MissingBlobError):
            checkout(store, files, tmp_path / "out")
        assert names(tmp_path) == before

    def test_a_size_that_the_blob_has_not_is_wrong_bytes(self, store, tmp_path):
        digest = store.put_bytes(b"hello")

        with pytest.raises(CorruptError, match="expected 4 bytes, found 5 bytes"):
            checkout(store, [FileEntry("a", digest, 4)], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_what_is_there_is_never_replaced(self, store, files, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").write_bytes(b"mine")
        before = names(tmp_path)

        with pytest.raises(ConflictError, match="out exists already"):
            checkout(store, files, tmp_path / "out")
        assert names(tmp_path) == before
        assert names(tmp_path / "out") == ["mine"]


class TestCheckoutTo:
    def test_a_copy_of_ones_own_is_writable_as_the_umask_says(self, store, files, tmp_path):
        old = os.umask(0o027)
        try:
            checkout_to(store, files, tmp_path / "mine")
        finally:
            os.umask(old)

        assert modes(tmp_path / "mine") == {
            ".": "0o750",
            "adapter_config.json": "0o640",
            "adapter_model.safetensors": "0o640",
            "sub": "0o750",
            "sub/deep": "0o750",
            "sub/deep/a.txt": "0o640",
        }

    def test_an_empty_folder_is_filled(self, store, files, tmp_path):
        (tmp_path / "mine").mkdir()
        checkout_to(store, files, tmp_path / "mine")

        assert difference(tmp_path / "mine", files) is None

    def test_the_same_bytes_again_are_left_untouched(self, store, files, tmp_path):
        checkout_to(store, files, tmp_path / "mine")
        before = (tmp_path / "mine").stat().st_ino, (tmp_path / "mine/adapter_config.json").stat().st_mtime_ns

        checkout_to(store, files, tmp_path / "mine")

        assert ((tmp_path / "mine").stat().st_ino, (tmp_path / "mine/adapter_config.json").stat().st_mtime_ns) == before

    def test_one_other_byte_is_a_conflict_and_is_kept(self, store, files, tmp_path):
        checkout_to(store, files, tmp_path / "mine")
        (tmp_path / "mine/sub/deep/a.txt").write_bytes(b"b")

        with pytest.raises(ConflictError, match="mine exists and holds something else"):
            checkout_to(store, files, tmp_path / "mine")
        assert (tmp_path / "mine/sub/deep/a.txt").read_bytes() == b"b"

    def test_one_more_file_is_a_conflict(self, store, files, tmp_path):
        checkout_to(store, files, tmp_path / "mine")
        (tmp_path / "mine/notes").touch()

        with pytest.raises(ConflictError):
            checkout_to(store, files, tmp_path / "mine")

    def test_a_file_is_a_conflict(self, store, files, tmp_path):
        (tmp_path / "mine").write_bytes(b"mine")

        with pytest.raises(ConflictError, match="mine exists and is no folder"):
            checkout_to(store, files, tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == b"mine"

    @pytest.mark.parametrize("target", ["elsewhere", "absent"])
    def test_a_link_is_a_conflict_wherever_it_leads(self, store, files, tmp_path, target):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "mine").symlink_to(tmp_path / target)

        with pytest.raises(ConflictError, match="mine exists and is no folder"):
            checkout_to(store, files, tmp_path / "mine")
        assert names(tmp_path / "elsewhere") == []

    def test_the_current_folder_is_not_pulled_away(self, store, files, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

        with pytest.raises(ConflictError, match="is the current folder"):
            checkout_to(store, files, tmp_path / "here")

    def test_a_relative_path_starts_at_the_current_folder(self, store, files, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        checkout_to(store, files, (tmp_path / "here" / ".." / "mine").relative_to(tmp_path / "here"))

        assert difference(tmp_path / "mine", files) is None


class TestDifference:
    @pytest.fixture
    def folder(self, store, files, tmp_path):
        checkout_to(store, files, tmp_path / "mine")
        return tmp_path / "mine"

    def test_a_link_to_the_right_bytes_is_a_difference(self, folder, files, tmp_path):
        (folder / "adapter_config.json").rename(tmp_path / "config")
        (folder / "adapter_config.json").symlink_to(tmp_path / "config")

        assert "adapter_config.json" in str(difference(folder, files))

    def test_a_linked_subfolder_is_a_difference(self, folder, files, tmp_path):
        (folder / "sub").rename(tmp_path / "elsewhere")
        (folder / "sub").symlink_to(tmp_path / "elsewhere")

        assert difference(folder, files) is not None

    def test_a_missing_file_is_named(self, folder, files):
        (folder / "sub/deep/a.txt").unlink()

        assert "a.txt" in str(difference(folder, files))
        assert difference(folder, files).actual == "no file"

    def test_a_pipe_is_not_waited_for(self, folder, files):
        (folder / "adapter_config.json").unlink()
        os.mkfifo(folder / "adapter_config.json")

        assert "cannot be read" in str(difference(folder, files))
