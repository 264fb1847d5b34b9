"""What lies in the pull cache, what of it goes and what stays, beside pulls and other users."""

import multiprocessing
import os
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import CorruptError
from registry.files.manifest import manifest_bytes
from registry.pulls import cache
from registry.pulls.cache import list_cache, prune_cache, to_go
from registry.pulls.entry import lock_of
from registry.pulls.pulled import ensure_pulled, find_pulled
from registry.pulls.turns import in_use, turn
from registry.results import CacheEntry, FileEntry
from registry.store.blobs import BlobStore
from registry.store.folder import FolderStore
from registry.values.digests import digest_of
from tests.registries import make_adapter, open_registry

NOW = datetime(2026, 1, 31, tzinfo=UTC)
NOBODY = 65534


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pulled"


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "blobs", tmp_path / "staging")


@pytest.fixture
def put(store: BlobStore, root):
    """Pulls a version of one file of so many bytes, used so many days ago; returns its folder."""

    def pull(name: str, size: int = 10, *, days: float = 0) -> Path:
        content = name.encode() * size
        files = [FileEntry("a.txt", store.put_bytes(content[:size]), size)]
        folder = ensure_pulled(store, digest_of(manifest_bytes(files)), files, root)
        moment = time.time() - 86400 * days
        os.utime(lock_of(folder), (moment, moment))
        return folder

    return pull


def prune(root, **options):
    defaults = {"older_than": None, "keep": None, "max_size": None, "dry_run": False}
    return prune_cache(root, **{**defaults, **options})


def folders(root):
    return {path.name for path in root.iterdir() if path.is_dir()}


class TestListing:
    def test_an_absent_cache_is_empty(self, root):
        assert list_cache(root) == ()

    def test_each_version_with_its_size_and_last_use_the_newest_first(self, put, root):
        old, new = put("a", 10, days=3), put("b", 20)

        entries = list_cache(root)

        assert [(entry.path, entry.size, entry.files, entry.state) for entry in entries] == [
            (new, 20, 1, "ok"),
            (old, 10, 1, "ok"),
        ]
        assert entries[1].digest == f"sha256:{old.name}"
        assert abs((datetime.now(UTC) - timedelta(days=3) - entries[1].last_used).total_seconds()) < 60

    @pytest.mark.parametrize("harm", ["no folder", "no manifest", "no file", "short", "more", "false manifest"])
    def test_what_is_not_whole_says_so(self, put, root, harm):
        folder = put("a")
        manifest = root / f"{folder.name}.manifest.json"
        folder.chmod(0o755)
        if harm == "no folder":
            folder.rename(root.parent / "aside")
        elif harm == "no manifest":
            manifest.unlink()
        elif harm == "no file":
            (folder / "a.txt").unlink()
        elif harm == "short":
            os.truncate(folder / "a.txt", 3)
        elif harm == "more":
            (folder / "b.txt").touch()
        else:
            manifest.chmod(0o644)
            manifest.write_text("{}")

        assert [entry.state for entry in list_cache(root)] == ["incomplete"]

    def test_versions_are_named_where_the_catalog_answers(self, tmp_path):
        registry = open_registry(tmp_path / "home")
        for name in ("team/sql", "team/copy"):
            registry.push(make_adapter(tmp_path / "a"), name)
        registry.pull("team/sql")

        (entry,) = registry.cache()
        assert entry.refs == ("team/copy@1", "team/sql@1")
        registry.remove("team/copy")
        assert registry.cache()[0].refs == ("team/sql@1",)
        down = open_registry(registry.settings.home, "postgresql+psycopg://nobody@127.0.0.1:1/none")
        assert down.cache()[0].refs is None
        assert down.prune_cache(keep=0).entries == 1
        registry.close()


def entry(name, size, days, state="ok"):
    return CacheEntry(name, Path(name), size, 1, NOW - timedelta(days=days), None, state)


class TestPlan:
    """a was used last, d not for longest; each has 10 bytes."""

    ENTRIES = (entry("a", 10, 1), entry("b", 10, 2), entry("c", 10, 3), entry("d", 10, 4))

    @pytest.mark.parametrize(
        ("options", "gone"),
        [
            ({}, ""),
            ({"older_than": 3}, "dc"),
            ({"older_than": 0}, "dcba"),
            ({"keep": 3}, "d"),
            ({"keep": 0}, "dcba"),
            ({"keep": 9}, ""),
            ({"max_size": 40}, ""),
            ({"max_size": 39}, "d"),
            ({"max_size": 20}, "dc"),
            ({"max_size": 0}, "dcba"),
            ({"max_size": 0, "keep": 1}, "dcb"),
            ({"older_than": 2, "keep": 3}, "d"),
            ({"older_than": 4, "max_size": 20}, "dc"),
        ],
    )
    def test_the_one_unused_for_longest_goes_first(self, options, gone):
        days = options.pop("older_than", None)
        older_than = None if days is None else timedelta(days=days)

        plan = to_go(self.ENTRIES, now=NOW, **{"keep": None, "max_size": None, "older_than": older_than, **options})

        assert "".join(one.digest for one in plan) == gone

    def test_what_is_incomplete_always_goes(self):
        plan = to_go((entry("x", 10, 0, "incomplete"),), now=NOW, older_than=None, keep=5, max_size=None)

        assert [one.digest for one in plan] == ["x"]


class TestPruning:
    def test_it_removes_all_of_an_entry_and_nothing_else(self, put, root):
        old, new = put("a", 10, days=40), put("b")

        result = prune(root, older_than=timedelta(days=30))

        assert (result.entries, result.bytes, result.removed) == (1, 10, (f"sha256:{old.name}",))
        assert sorted(path.name for path in root.iterdir()) == sorted(
            [new.name, f"{new.name}.lock", f"{new.name}.manifest.json"]
        )
        assert find_pulled(root, f"sha256:{new.name}") == new

    def test_a_dry_run_says_the_same_and_changes_nothing(self, put, root):
        put("a", 10, days=40)
        (root / ".left.tmp").mkdir()
        before = sorted(root.rglob("*"))

        planned = prune(root, keep=0, dry_run=True)

        assert sorted(root.rglob("*")) == before
        done = prune(root, keep=0)
        assert (planned.entries, planned.bytes, planned.temporary, planned.removed) == (
            done.entries,
            done.bytes,
            done.temporary,
            done.removed,
        )
        assert list(root.iterdir()) == []

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_what_is_read_or_fetched_stays(self, put, root, dry_run):
        read, fetched, free = put("a", days=9), put("b", days=9), put("c", days=9)

        with in_use(lock_of(read)), turn(lock_of(fetched), ready=lambda: False, notice=print):
            os.utime(lock_of(read), (1, 1))  # as old as any: only the lock speaks for it
            result = prune(root, keep=0, dry_run=dry_run)

        assert result.kept == {"in use": 2}
        assert result.removed == (f"sha256:{free.name}",)
        assert {read.name, fetched.name} <= folders(root)

    def test_what_is_used_between_plan_and_removal_stays(self, put, root, monkeypatch):
        folder = put("a", days=9)

        @contextmanager
        def late(path, *, create=True):
            with in_use(path):  # a pull that begins and ends just before the lock is taken
                pass
            with alone(path, create=create) as free:
                yield free

        alone = cache.alone
        monkeypatch.setattr(cache, "alone", late)

        assert prune(root, keep=0).kept == {"in use": 1}
        assert folder.is_dir()

    def test_leftovers_go_without_any_option(self, put, root):
        whole, broken = put("a"), put("b")
        broken.chmod(0o755)
        (broken / "a.txt").unlink()
        (root / ".half.tmp").mkdir()
        (root / ("c" * 64 + ".lock")).touch()

        result = prune(root)

        assert (result.entries, result.temporary, result.removed) == (1, 1, (f"sha256:{broken.name}",))
        assert sorted(path.name for path in root.iterdir()) == sorted(
            [whole.name, f"{whole.name}.lock", f"{whole.name}.manifest.json"]
        )

    def test_open_files_live_on(self, put, root):
        folder = put("a", 10)

        with (folder / "a.txt").open("rb") as stream:
            prune(root, keep=0)
            assert stream.read() == b"a" * 10
        assert not folder.exists()

    def test_an_entry_without_a_lock_file_goes_too(self, put, root):
        """As clients without lock files left it."""
        lock_of(put("a")).unlink()

        assert prune(root, keep=0).entries == 1
        assert list(root.iterdir()) == []

    def test_a_pull_after_a_prune_fetches_again(self, put, root):
        folder = put("a")
        prune(root, keep=0)

        assert put("a") == folder
        assert find_pulled(root, f"sha256:{folder.name}") == folder

    def test_another_users_entry_stays(self, put, root, monkeypatch):
        put("a")
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

        assert prune(root, keep=0).kept == {"belongs to another user": 1}


FORK = multiprocessing.get_context("fork")


def as_user(user, place):
    """What a user with a umask of 077 gets who pulls there: the folder, or the name of the error."""
    results = FORK.SimpleQueue()

    def child():
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        os.umask(0o077)
        store = FolderStore(place / "blobs", place / "staging")
        files = [FileEntry("a.txt", digest_of(b"shared"), 6)]
        try:
            results.put(str(ensure_pulled(store, digest_of(manifest_bytes(files)), files, place / "cache")))
        except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
            results.put(f"{type(error).__name__}: {error}: {getattr(error, 'hint', None)}")

    process = FORK.Process(target=child)
    process.start()
    said = results.get()
    process.join()
    return said


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
class TestSharing:
    """Two users with a umask of 077 and one cache."""

    @pytest.fixture
    def place(self):
        with tempfile.TemporaryDirectory(prefix="sharing-") as folder:  # pytest's own are closed to other users
            place = Path(folder)
            place.chmod(0o755)
            FolderStore(place / "blobs", place / "staging").put_bytes(b"shared")
            (place / "cache").mkdir()
            (place / "cache").chmod(0o1777)
            yield place

    def test_one_fetches_and_the_other_uses_it(self, place):
        first = as_user(1001, place)
        (place / "blobs").rename(place / "gone")
        second = as_user(1002, place)

        (folder,) = [path for path in (place / "cache").iterdir() if path.is_dir()]
        assert first == second == str(folder)
        assert {path.stat().st_uid for path in (place / "cache").rglob("*")} == {1001}

    def test_anothers_damaged_entry_is_wrong_bytes_in_a_sticky_folder(self, place):
        folder = Path(as_user(1001, place))
        (folder / "a.txt").write_bytes(b"wrong!")
        said = as_user(1002, place)

        assert said.startswith(f"CorruptError: {folder / 'a.txt'}")
        assert f"have its owner remove {folder}" in said
        assert (folder / "a.txt").read_bytes() == b"wrong!"
        assert as_user(1001, place) == str(folder)
        assert (folder / "a.txt").read_bytes() == b"shared"

    def test_without_the_sticky_bit_whoever_finds_it_replaces_it(self, place):
        (place / "cache").chmod(0o777)
        folder = Path(as_user(1001, place))
        (folder / "a.txt").write_bytes(b"wrong!")

        assert as_user(1002, place) == str(folder)
        assert (folder / "a.txt").read_bytes() == b"shared"
        assert folder.stat().st_uid == 1002
        prune(place / "cache")
        assert len(list((place / "cache").iterdir())) == 3


def test_a_damaged_entry_in_a_place_that_cannot_be_written_is_wrong_bytes(put, root, store, monkeypatch):
    """Exit code 6, and the way out is said."""
    folder = put("a", 6)
    (folder / "a.txt").chmod(0o644)
    (folder / "a.txt").write_bytes(b"wrong!")

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted", str(root))

    monkeypatch.setattr("registry.pulls.pulled.remove_entry", refused)

    with pytest.raises(CorruptError) as caught:
        put("a", 6)
    assert caught.value.exit_code == 6
    assert "--to" in caught.value.hint


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["link", "loose link", "folder"])
def test_an_entry_whose_lock_is_no_plain_file_stays_and_is_told_for_what_it_is(put, root, tmp_path, kind, dry_run):
    """Nothing can be locked there; nor is what a link leads to ever touched."""
    folder = put("a", days=9)
    lock_of(folder).unlink()
    (tmp_path / "mine").write_text("kept")
    if kind == "folder":
        lock_of(folder).mkdir()
    else:
        lock_of(folder).symlink_to(tmp_path / ("mine" if kind == "link" else "absent"))

    result = prune_cache(root, older_than=timedelta(0), keep=None, max_size=None, dry_run=dry_run)

    reason = "its .lock is no plain file, so whether it is in use cannot be told: remove that"
    assert (result.entries, dict(result.kept)) == (0, {reason: 1})
    assert folder.is_dir() and (tmp_path / "mine").read_text() == "kept" and not (tmp_path / "absent").exists()
