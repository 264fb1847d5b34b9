"""A large file that is sent from where it lies: what a store need not have copied, and every way to touch it meanwhile."""

import hashlib
import os

import pytest

from registry.errors import IntakeError
from registry.files import partsums
from registry.files.disk import reading
from registry.files.partsums import Summing
from registry.files.scratch import scratch_folder
from registry.files.staging import Staging

MIB = 1 << 20
CONTENT = bytes(range(256)) * (9 * 4096)  # 9 MiB


@pytest.fixture(autouse=True)
def all_large(monkeypatch):
    """Every file is a large one."""
    monkeypatch.setattr(partsums, "LARGE", 1)
    monkeypatch.setattr(partsums, "PART", 4 * MIB)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def stage(folder, source, *, summed=True):
    """The staged file, and what the staging folder then holds."""
    with scratch_folder(folder) as here, reading(source) as descriptor:
        file = Staging(here, None, summed).add(descriptor, name="weights", place=source)
        return file, sorted(path.name for path in here.iterdir())


def test_no_copy_is_made_and_all_sums_are(tmp_path, source):
    file, there = stage(tmp_path / "staging", source)

    assert there == []
    assert (file.path, file.size) == (source, 9 * MIB)
    assert file.digest == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    starts = range(0, 9 * MIB, 4 * MIB)
    assert file.parts.sums == tuple(hashlib.sha256(CONTENT[start : start + 4 * MIB]).digest() for start in starts)


def test_the_file_itself_is_left_as_it_is(tmp_path, source):
    source.chmod(0o640)
    stage(tmp_path / "staging", source)

    assert source.stat().st_mode & 0o777 == 0o640
    assert source.stat().st_nlink == 1
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize("reason", ["small", "other store"])
def test_what_is_small_or_goes_to_another_store_is_copied(tmp_path, source, monkeypatch, reason):
    if reason == "small":
        monkeypatch.setattr(partsums, "LARGE", 9 * MIB + 1)

    file, there = stage(tmp_path / "staging", source, summed=reason == "small")

    assert there == ["weights"]
    assert file.left is None


def rewrite(source):
    """As a trainer that saves again: the same length, other bytes."""
    source.write_bytes(CONTENT[::-1])


def rewrite_and_set_the_time_back(source):
    known = source.stat()
    rewrite(source)
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))


def append(source):
    with source.open("ab") as file:
        file.write(b"more")


def truncate(source):
    os.truncate(source, 5)


def replace(source):
    """By another file of the same bytes and times."""
    other, known = source.with_name("other"), source.stat()
    other.write_bytes(CONTENT)
    os.utime(other, ns=(known.st_atime_ns, known.st_mtime_ns))
    other.replace(source)


def replace_by_a_link(source):
    source.rename(source.with_name("moved"))
    source.symlink_to(source.with_name("moved"))


def replace_by_a_pipe(source):
    source.unlink()
    os.mkfifo(source)


def remove(source):
    source.unlink()


CHANGES = (
    rewrite,
    rewrite_and_set_the_time_back,
    append,
    truncate,
    replace,
    replace_by_a_link,
    replace_by_a_pipe,
    remove,
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_touched_since_is_refused_by_name(tmp_path, source, change):
    file, _ = stage(tmp_path / "staging", source)
    change(source)

    with pytest.raises(IntakeError, match=r"/weights: changed while it was pushed") as caught, file.opened():
        pass
    assert caught.value.hint == "run the same command again when nothing writes to it"


def test_what_was_not_touched_is_read(tmp_path, source):
    file, _ = stage(tmp_path / "staging", source)

    with file.opened() as descriptor:
        assert os.pread(descriptor, 10 * MIB, 0) == CONTENT


@pytest.mark.parametrize("change", [rewrite, append, truncate])
def test_what_changes_while_it_is_hashed_is_refused(tmp_path, source, monkeypatch, change):
    """When its first chunk was summed."""
    update, changed = Summing.update, []

    def changing(self, chunk):
        if not changed:
            changed.append(change(source))
        update(self, chunk)

    monkeypatch.setattr(Summing, "update", changing)

    with pytest.raises(IntakeError, match="changed while it was pushed"):
        stage(tmp_path / "staging", source)
    assert list((tmp_path / "staging").iterdir()) == []
