"""Pulled versions are right whenever they are returned, and are found again on their own."""

import multiprocessing
import shutil

import pytest

from registry.errors import ConflictError, CorruptError, UsageError
from registry.files.manifest import manifest_bytes
from registry.pulls.pulled import clear_stale_pulls, ensure_pulled, find_pulled
from registry.results import FileEntry
from registry.store.folder import FolderStore
from registry.values.digests import digest_of


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "blobs", tmp_path / "staging")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pulled"


@pytest.fixture
def files(store):
    contents = {"adapter_config.json": b"{}", "sub/a.txt": b"a"}
    return [FileEntry(path, store.put_bytes(content), len(content)) for path, content in contents.items()]


@pytest.fixture
def digest(files):
    return digest_of(manifest_bytes(files))


def break_copy(path):
    (path / "adapter_config.json").chmod(0o644)
    (path / "adapter_config.json").write_bytes(b"[]")


def test_a_version_lies_in_a_folder_named_by_its_digest_and_holds_only_its_files(store, digest, files, root):
    path = ensure_pulled(store, digest, files, root)

    assert path == root / digest.removeprefix("sha256:")
    assert sorted(inside.name for inside in path.iterdir()) == ["adapter_config.json", "sub"]


def test_a_second_pull_uses_the_first(store, digest, files, root):
    first = ensure_pulled(store, digest, files, root).stat().st_ino

    assert ensure_pulled(store, digest, files, root).stat().st_ino == first


def test_a_right_copy_needs_no_store(store, digest, files, root, tmp_path):
    path = ensure_pulled(store, digest, files, root)
    shutil.rmtree(tmp_path / "blobs")

    assert ensure_pulled(store, digest, files, root) == path


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "link", "file"])
def test_a_wrong_copy_is_replaced_by_a_good_one(store, digest, files, root, harm):
    path = ensure_pulled(store, digest, files, root)
    path.chmod(0o755)
    if harm == "changed":
        break_copy(path)
    elif harm == "missing":
        (path / "adapter_config.json").unlink()
    elif harm == "added":
        (path / "more").touch()
    else:
        path.rename(root.parent / "aside")
        path.symlink_to(root.parent / "aside") if harm == "link" else path.touch()

    assert ensure_pulled(store, digest, files, root) == path
    assert (path / "adapter_config.json").read_bytes() == b"{}"
    assert not path.is_symlink()
    assert find_pulled(root, digest) == path
    assert list(root.glob("*.tmp")) == []


def test_a_wrong_copy_and_a_wrong_store_is_an_error(store, digest, files, root):
    break_copy(ensure_pulled(store, digest, files, root))
    store.path(files[0].sha256).chmod(0o644)
    store.path(files[0].sha256).write_bytes(b"[]")

    with pytest.raises(CorruptError):
        ensure_pulled(store, digest, files, root)


def test_files_that_are_not_the_digests_are_refused(store, digest, files, root):
    with pytest.raises(CorruptError, match="manifest: wrong bytes"):
        ensure_pulled(store, digest, files[:1], root)


def pulled_by_four(*arguments):
    """Exit codes of four processes that pull at once."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=ensure_pulled, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def test_processes_pulling_the_same_version_all_succeed(store, digest, files, root):
    codes = pulled_by_four(store, digest, files, root)

    assert codes == [0] * 4
    assert find_pulled(root, digest) is not None
    assert list(root.glob("*.tmp")) == []


def test_processes_repairing_the_same_copy_all_succeed(store, digest, files, root):
    break_copy(ensure_pulled(store, digest, files, root))
    codes = pulled_by_four(store, digest, files, root)

    assert codes == [0] * 4
    assert find_pulled(root, digest) is not None


class TestFinding:
    def test_by_whole_or_short_digest_with_the_store_gone(self, store, digest, files, root, tmp_path):
        path = ensure_pulled(store, digest, files, root)
        shutil.rmtree(tmp_path / "blobs")

        assert find_pulled(root, digest) == path
        assert find_pulled(root, digest[: len("sha256:") + 12]) == path

    def test_nothing_pulled_is_none(self, digest, root):
        assert find_pulled(root, digest) is None

    def test_a_manifest_without_its_folder_is_none(self, store, digest, files, root):
        path = ensure_pulled(store, digest, files, root)
        path.rename(root.parent / "elsewhere")

        assert find_pulled(root, digest) is None

    def test_wrong_bytes_are_not_returned(self, store, digest, files, root):
        break_copy(ensure_pulled(store, digest, files, root))

        with pytest.raises(CorruptError, match=r"adapter_config\.json"):
            find_pulled(root, digest)

    def test_a_changed_manifest_is_not_believed(self, store, digest, files, root):
        """Otherwise changed files with a changed manifest beside them would pass."""
        path = ensure_pulled(store, digest, files, root)
        beside = root / f"{path.name}.manifest.json"
        beside.chmod(0o644)
        beside.write_bytes(manifest_bytes(files[:1]))
        (path / "sub").chmod(0o755)
        (path / "sub/a.txt").unlink()
        path.chmod(0o755)
        (path / "sub").rmdir()

        with pytest.raises(CorruptError, match=r"manifest\.json: wrong bytes"):
            find_pulled(root, digest)

    def test_a_short_digest_of_two_versions_names_both(self, root):
        root.mkdir()
        for last in "01":
            (root / ("a" * 63 + last + ".manifest.json")).touch()

        with pytest.raises(ConflictError, match=f"sha256:{'a' * 63}0, sha256:{'a' * 63}1"):
            find_pulled(root, "sha256:" + "a" * 12)

    @pytest.mark.parametrize("text", ["sha256:" + "a" * 11, "sha256:../../../..", "a" * 64, "sha256:" + "A" * 64, ""])
    def test_what_is_no_digest_is_refused(self, root, text):
        with pytest.raises(UsageError):
            find_pulled(root, text)


def test_what_a_dead_pull_left_is_cleared_and_finished_copies_stay(store, digest, files, root):
    path = ensure_pulled(store, digest, files, root)
    (root / ".left.tmp").mkdir()
    (root / ".left.tmp/half").touch()

    assert clear_stale_pulls(root) == 1
    assert clear_stale_pulls(root) == 0
    assert find_pulled(root, digest) == path
