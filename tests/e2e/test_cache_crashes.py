"""Pull, repair, copy and prune killed at each call that changes a file: at most temporary files, and the next is right."""

import shutil

import pytest

from registry.errors import CorruptError
from registry.files.checkout import difference
from registry.files.manifest import manifest_bytes
from registry.pulls.cache import list_cache, prune_cache
from registry.pulls.copies import copy_from_cache
from registry.pulls.entry import entry_folder
from registry.pulls.pulled import ensure_pulled, find_pulled
from registry.results import FileEntry
from registry.store.folder import FolderStore
from registry.values.digests import digest_of
from tests.e2e.crashes import killed_at, points

CONTENTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000, "sub/notes.txt": b"notes"}
FILES = [FileEntry(name, digest_of(content), len(content)) for name, content in CONTENTS.items()]
VERSION = digest_of(manifest_bytes(FILES))

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def pull(home):
    return ensure_pulled(FolderStore(home / "blobs", home / "staging"), VERSION, FILES, home / "pulled")


def pulling(home):
    """A pull of what is not there, then a copy and links from the cache."""
    folder = pull(home)
    copy_from_cache(folder, FILES, home / "copy", link=False)
    copy_from_cache(folder, FILES, home / "linked", link=True)


def pruning(home):
    prune_cache(home / "pulled", older_than=None, keep=0, max_size=None, dry_run=False)


def whole(home):
    pull(home)


def damaged(home):
    folder = pull(home)
    folder.chmod(0o755)
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").write_bytes(b"[]")


STORIES = {"pull": (lambda home: None, pulling), "repair": (damaged, pull), "prune": (whole, pruning)}


def home_with(folder, before):
    store = FolderStore(folder / "blobs", folder / "staging")
    for content in CONTENTS.values():
        store.put_bytes(content)
    before(folder)
    return folder


def check(home, work, said, *, maybe_wrong):
    """What another process finds after the kill, then after the same work again, then after a prune of leftovers."""
    try:
        found = find_pulled(home / "pulled", VERSION)
    except CorruptError:
        assert maybe_wrong
        assert "done" not in said
    else:
        assert found is None or difference(found, FILES) is None
    for copy in ("copy", "linked"):
        assert not (home / copy).exists() or difference(home / copy, FILES) is None

    work(home)
    assert (find_pulled(home / "pulled", VERSION) is None) == (work is pruning)
    prune_cache(home / "pulled", older_than=None, keep=None, max_size=None, dry_run=False)
    assert list((home / "pulled").glob(".*")) == []
    assert [entry.state for entry in list_cache(home / "pulled")] == ([] if work is pruning else ["ok"])
    if work is not pruning:
        assert difference(entry_folder(home / "pulled", VERSION), FILES) is None


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_kill_at_any_mutating_call_leaves_at_most_temporary_files(tmp_path, story, step):
    before, work = STORIES[story]

    def doing(home):
        def told(speaker):
            work(home)
            speaker.write("done\n")

        return told

    every = points(doing(home_with(tmp_path / "calm", before)), tmp_path / "log")
    assert len(every) >= 9, every
    for point in every[::step]:
        home = home_with(tmp_path / "home", before)
        said = killed_at(doing(home), point)
        assert said is not None, point
        check(home, work, said, maybe_wrong=story == "repair")
        shutil.rmtree(home)
