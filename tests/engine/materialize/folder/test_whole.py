"""Outputs that are there whole or not at all."""

import os

import pytest

from engine.errors import DestinationError, NoSpaceError
from engine.materialize.folder.whole import whole_file, whole_folder


def fill(place, kind):
    """Something for the output."""
    if kind == "folder":
        (place / "inner").mkdir()
        (place / "inner/a").write_text("whole")
    else:
        place.write_text("whole")


MAKERS = {"folder": whole_folder, "file": whole_file}
both = pytest.mark.parametrize("kind", MAKERS)


@both
def test_what_was_made_bears_the_name_and_nothing_else_is_left(kind, tmp_path):
    with MAKERS[kind](tmp_path / "out", 5) as place:
        fill(place, kind)
        assert not (tmp_path / "out").exists()

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / ("out/inner/a" if kind == "folder" else "out")).read_text() == "whole"


@both
def test_an_error_leaves_nothing(kind, tmp_path):
    with pytest.raises(RuntimeError, match="mine"), MAKERS[kind](tmp_path / "out", 5) as place:
        fill(place, kind)
        raise RuntimeError("mine")

    assert list(tmp_path.iterdir()) == []


@both
def test_an_interrupt_leaves_nothing(kind, tmp_path):
    with pytest.raises(KeyboardInterrupt), MAKERS[kind](tmp_path / "out", 5) as place:
        fill(place, kind)
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize("there", ["file", "folder", "link to nothing"])
def test_what_is_there_is_refused_and_kept(kind, there, tmp_path):
    out = tmp_path / "out"
    {"file": lambda: out.write_text("mine"), "folder": out.mkdir, "link to nothing": lambda: out.symlink_to("no")}[
        there
    ]()

    with pytest.raises(DestinationError, match="exists"), MAKERS[kind](out, 5):
        raise AssertionError("never begun")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert there != "file" or out.read_text() == "mine"


@both
def test_what_came_there_meanwhile_is_kept(kind, tmp_path):
    with pytest.raises(DestinationError, match="exists"), MAKERS[kind](tmp_path / "out", 5) as place:
        fill(place, kind)
        (tmp_path / "out").write_text("another's")

    assert (tmp_path / "out").read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@both
def test_more_than_there_is_room_for_is_refused_before_anything_is_made(kind, tmp_path):
    with pytest.raises(NoSpaceError, match=f"needs {10**18} bytes"), MAKERS[kind](tmp_path / "out", 10**18):
        raise AssertionError("never begun")

    assert list(tmp_path.iterdir()) == []


@both
def test_a_parent_that_is_not_there_is_a_typed_error(kind, tmp_path):
    with pytest.raises(DestinationError, match="No such file"), MAKERS[kind](tmp_path / "no/out", 5):
        raise AssertionError("never begun")


@both
def test_a_full_disk_on_the_way_is_a_typed_error(kind, tmp_path):
    with pytest.raises(DestinationError, match="No space left"), MAKERS[kind](tmp_path / "out", 5) as place:
        fill(place, kind)
        raise OSError(28, os.strerror(28))

    assert list(tmp_path.iterdir()) == []


@both
def test_a_name_as_long_as_a_file_system_takes_has_a_temporary_one(kind, tmp_path):
    out = tmp_path / ("ä" * 127)

    with MAKERS[kind](out, 5) as place:
        fill(place, kind)

    assert [path.name for path in tmp_path.iterdir()] == [out.name]
