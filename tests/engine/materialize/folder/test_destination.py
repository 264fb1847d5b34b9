"""Where a result may go, and what is refused before anything is written."""

import errno
import fcntl
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine.errors import BaseError, DestinationError, HeaderError, NoSpaceError, RefusedError
from engine.materialize import materialize, merged
from engine.materialize.folder import durable, staging
from engine.materialize.folder.durable import sync_tree, syncing
from engine.materialize.stored import files
from engine.materialize.stored.files import sync
from tests.engine.materialize.small import LINEARS, contents, make_adapter, request
from tests.registry.places import mounted, remount

WEIGHTS = 2 * (24 + 8 * 16 + 1) * 16
"""Bytes of the small base's tensors."""


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def wanted(tmp_path):
    """A request whose base and adapter lie apart from where results go."""
    found = request(tmp_path / "given")
    (tmp_path / "place").mkdir()
    return found


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to an empty folder", "dangling link"])
def test_what_is_there_is_never_overwritten(wanted, tmp_path, kind):
    out = tmp_path / "place" / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        (tmp_path / "empty").mkdir()
        out.symlink_to(tmp_path / {"link": "given", "link to an empty folder": "empty"}.get(kind, "gone"))

    with pytest.raises(DestinationError, match="exists; give the name of a new folder"):
        materialize(wanted, out)

    assert left(tmp_path / "place") == ["out"]
    assert kind != "file" or out.read_text() == "mine"
    assert kind != "folder" or contents(out) == {"mine": b"mine"}


def test_an_empty_folder_is_filled(wanted, tmp_path):
    (tmp_path / "place" / "out").mkdir()

    materialize(wanted, tmp_path / "place" / "out")

    assert "config.json" in left(tmp_path / "place" / "out")


def test_the_current_folder_is_not_pulled_away(wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "place")

    with pytest.raises(DestinationError, match="current folder"):
        materialize(wanted, tmp_path / "place")


def test_a_mount_point_is_refused_before_the_work(wanted):
    with mounted("tmpfs") as place, pytest.raises(DestinationError, match="mount point"):
        materialize(wanted, place)


def test_a_relative_destination_is_beside_the_current_folder(wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "place")

    done = materialize(wanted, wanted.base.__class__("out"))

    assert done.path == tmp_path / "place" / "out"
    assert left(tmp_path / "place") == ["out"]


def test_a_folder_that_is_not_there_is_named(wanted, tmp_path):
    with pytest.raises(DestinationError, match=r"No such file or directory \(.*gone"):
        materialize(wanted, tmp_path / "gone" / "out")


def test_a_folder_that_cannot_be_written_is_named(wanted):
    with mounted("tmpfs") as place:
        remount(place, "ro")
        with pytest.raises(DestinationError, match="Read-only file system"):
            materialize(wanted, place / "out")


def test_the_longest_name_is_possible(wanted, tmp_path):
    out = tmp_path / "place" / ("x" * 255)

    materialize(wanted, out)

    assert left(tmp_path / "place") == [out.name]


def test_a_folder_of_another_user_is_not_believed(wanted, tmp_path):
    """Its journal would be theirs, and with it what a resumed run takes for finished."""
    if os.geteuid() != 0:
        pytest.skip("giving a folder away needs root")
    home = tmp_path / "place" / ".out.partial"
    home.mkdir()
    os.chown(home, 12345, 12345)

    with pytest.raises(DestinationError, match="belongs to another user"):
        materialize(wanted, tmp_path / "place" / "out", resume=True)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_in_the_staging_folders_place_is_left_alone(wanted, tmp_path, kind):
    home = tmp_path / "place" / ".out.partial"
    if kind == "file":
        home.write_text("mine")
    else:
        home.symlink_to(tmp_path / "given")

    with pytest.raises(DestinationError):
        materialize(wanted, tmp_path / "place" / "out")

    assert left(tmp_path / "place") == [".out.partial"]
    assert left(tmp_path / "given") == ["adapter", "base"]


def test_a_lock_on_a_folder_that_is_gone_is_no_lock(tmp_path, monkeypatch):
    """Who held it took it away between our open and our lock: we hold a folder without a name, and begin anew."""
    real, calls = fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            shutil.rmtree(tmp_path / ".out.partial")
        calls.append(how)
        real(descriptor, how)

    monkeypatch.setattr(staging.fcntl, "flock", flock)

    with staging.claimed(staging.staging(tmp_path / "out")):
        assert left(tmp_path) == [".out.partial"]
    assert len(calls) == 2


def test_too_little_room_is_said_in_bytes_before_anything_is_written(wanted):
    with mounted("tmpfs", "-o", "size=4k") as place:
        with pytest.raises(NoSpaceError) as caught:
            materialize(wanted, place / "out")

        assert left(place) == []
        assert caught.value.free <= 4096
        assert caught.value.needed > WEIGHTS + 10 * 1024  # what is told of each tensor needs room as well
        assert f"needs {caught.value.needed} bytes, {caught.value.free} are free" in str(caught.value)


def test_a_disk_that_fills_meanwhile_is_named_and_the_finished_part_resumed(wanted):
    with mounted("tmpfs", "-o", "size=64k") as place:
        filler = place / "filler"

        def progress(done, _, __):
            if done == 2:
                with filler.open("wb") as stream, pytest.raises(OSError, match="No space left"):
                    while True:
                        stream.write(b"x" * 512)
                        stream.flush()

        with pytest.raises(DestinationError, match=r"No space left on device.*; what is finished stays in .*resume it"):
            materialize(wanted, place / "out", jobs=1, progress=progress)
        assert not (place / "out").exists()

        filler.unlink()
        names = []
        materialize(wanted, place / "out", resume=True, progress=lambda done, of, name: names.append(name))
        assert 1 <= len(names) <= 8
        assert left(place) == ["out"]
        materialize(wanted, wanted.base.parent / "undisturbed")
        assert contents(place / "out") == contents(wanted.base.parent / "undisturbed")


def test_the_disk_has_set_aside_all_weights_before_the_first_is_written(wanted, tmp_path, monkeypatch):
    real, found = merged.threads, []

    def looked(tasks, *, jobs):
        files = (tmp_path / "place" / ".out.partial" / "files").glob("*.safetensors")
        found.extend((file.stat().st_size, file.stat().st_blocks * 512) for file in files)
        return real(tasks, jobs=jobs)

    monkeypatch.setattr(merged, "threads", looked)
    materialize(replace(wanted, shard_size=10**6), tmp_path / "place" / "out")

    [(size, blocks)] = found
    assert blocks >= size > 4096  # more than the block that the header fills


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_sets_nothing_aside_does(wanted, tmp_path, monkeypatch, code):
    materialize(wanted, tmp_path / "place" / "usual")
    asked = []

    def refuse(_, start, size):
        asked.append((start, size))
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "posix_fallocate", refuse)
    materialize(wanted, tmp_path / "place" / "out")

    assert asked == [(0, file.stat().st_size) for file in sorted((tmp_path / "place" / "out").glob("*.safetensors"))]
    assert contents(tmp_path / "place" / "out") == contents(tmp_path / "place" / "usual")


def test_a_disk_that_cannot_set_it_aside_is_named_and_nothing_stays(wanted, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "posix_fallocate", refuse)

    with pytest.raises(DestinationError, match="No space left on device"):
        materialize(wanted, tmp_path / "place" / "out")
    assert left(tmp_path / "place") == []


def test_what_is_there_already_counts_as_room(wanted, tmp_path, monkeypatch):
    """A resumed run needs only the rest."""
    out = tmp_path / "place" / "out"

    def progress(done, of, __):
        if done == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(wanted, out, progress=progress)
    monkeypatch.setattr(merged.shutil, "disk_usage", lambda place: SimpleNamespace(free=WEIGHTS + 10 * 1024))

    with pytest.raises(NoSpaceError):
        materialize(wanted, tmp_path / "place" / "other")
    materialize(wanted, out, resume=True)
    assert left(tmp_path / "place") == ["out"]


def _index(base, name, file):
    index = base / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"][name] = file
    index.write_text(json.dumps(value))


def _pickled(base):
    for file in base.glob("*.safetensors*"):
        file.unlink()
    (base / "pytorch_model.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda base: (base / "model-00002-of-00002.safetensors").unlink(), BaseError, "model-00002.* is missing"),
        (lambda base: os.truncate(base / "model-00002-of-00002.safetensors", 900), HeaderError, "truncated"),
        (lambda base: os.truncate(base / "model-00002-of-00002.safetensors", 5), HeaderError, "too-small"),
        (lambda base: _index(base, "model.norm.weight", "model-00001-of-00002.safetensors"), BaseError, "places"),
        (lambda base: _index(base, "more.weight", "model-00001-of-00002.safetensors"), BaseError, "more.weight"),
        (lambda base: _index(base, "model.norm.weight", "../x.safetensors"), BaseError, "beside the index"),
        (_pickled, BaseError, "only pickle weights"),
        (shutil.rmtree, BaseError, "no such file or folder"),
        (lambda base: (base / "config.json").write_text("{"), BaseError, "is not JSON"),
    ],
)
def test_a_base_that_is_broken_or_lies_is_refused_before_anything_is_written(wanted, tmp_path, change, error, told):
    change(wanted.base)

    with pytest.raises(error, match=told):
        materialize(wanted, tmp_path / "place" / "out")

    assert left(tmp_path / "place") == []


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(wanted, tmp_path):
    shutil.rmtree(wanted.sources[0].path)
    make_adapter(wanted.sources[0].path, linears=[LINEARS[0], "model.layers.7.self_attn.q_proj"])

    with pytest.raises(RefusedError, match=r"layers\.7"):
        materialize(wanted, tmp_path / "place" / "out")

    assert left(tmp_path / "place") == []


def test_what_the_disk_refuses_early_is_raised_in_the_end(tmp_path, monkeypatch):
    """The system says once that a file could not be written; a later fsync would succeed."""
    monkeypatch.setattr(durable, "EVERY", 100)
    answers = [OSError(errno.EIO, "Input/output error")]
    monkeypatch.setattr(durable, "sync", lambda path: (_ for _ in ()).throw(answers.pop()) if answers else None)

    with pytest.raises(OSError, match="Input/output error"), syncing() as wrote:
        wrote(tmp_path / "a", 60)
        wrote(tmp_path / "a", 60)
        wrote(tmp_path / "b", 300)


def test_files_go_to_the_disk_while_others_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "EVERY", 100)
    synced = []
    monkeypatch.setattr(durable, "sync", lambda path: synced.append(path.name))

    with syncing() as wrote:
        for name, size in [("a", 99), ("b", 100), ("a", 1), ("a", 99)]:
            wrote(tmp_path / name, size)

    assert synced == ["b", "a"]


def test_an_error_among_the_writers_is_not_kept_back(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "sync", lambda path: None)

    with pytest.raises(ZeroDivisionError), syncing() as wrote:
        wrote(tmp_path / "a", durable.EVERY)
        raise ZeroDivisionError


def test_a_tree_is_synced_from_its_leaves_up(tmp_path, monkeypatch):
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "one" / "two" / "leaf").write_text("x")
    synced = []
    monkeypatch.setattr(durable, "sync", lambda path: synced.append(path.name))

    sync_tree(tmp_path / "one")

    assert synced == ["leaf", "two", "one"]


def test_syncing_a_file_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "gone")
