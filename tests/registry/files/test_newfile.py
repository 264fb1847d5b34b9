"""A file that a command writes for its caller: there whole or not at all, and in nobody's place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import ConflictError
from registry.files.newfile import new_file


def write(to, text, *, force=False, meanwhile=None):
    with new_file(to, force=force, command="export ...") as temporary:
        assert temporary.parent.parent == to.parent  # the same file system
        temporary.write_text(text)
        if meanwhile is not None:
            to.write_text(meanwhile)


def test_the_file_is_what_the_block_wrote_and_nothing_is_left_beside_it(tmp_path):
    write(tmp_path / "a.tar", "new")

    assert (tmp_path / "a.tar").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a.tar", force=False, command="backup") as temporary:
        temporary.write_text("half")
        _ = 1 / 0

    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_forced(tmp_path):
    (tmp_path / "a.tar").write_text("old")

    with pytest.raises(ConflictError, match=r"a\.tar exists already") as refusal:
        write(tmp_path / "a.tar", "new")
    assert refusal.value.hint == "adapters export ... --force replaces a file"
    assert (tmp_path / "a.tar").read_text() == "old"
    write(tmp_path / "a.tar", "new", force=True)
    assert (tmp_path / "a.tar").read_text() == "new"


def test_what_came_meanwhile_stays_too(tmp_path):
    with pytest.raises(ConflictError, match="exists already"):
        write(tmp_path / "a.tar", "new", meanwhile="another's")

    assert (tmp_path / "a.tar").read_text() == "another's"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_never_replaced(tmp_path, force):
    (tmp_path / "out").mkdir()

    with pytest.raises(ConflictError, match="exists already"):
        write(tmp_path / "out", "new", force=force)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dangling_link_is_something_that_is_there(tmp_path):
    (tmp_path / "a.tar").symlink_to(tmp_path / "nowhere")

    with pytest.raises(ConflictError, match="exists already"):
        write(tmp_path / "a.tar", "new")


def test_the_bytes_are_durable_before_the_name_and_the_name_when_the_block_is_over(tmp_path, monkeypatch):
    """fsync of the file, then its name, then fsync of the folder: after a power cut the name tells the truth."""
    steps, fsync, link = [], os.fsync, os.link

    def noted(descriptor):
        steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "link", lambda *paths, **more: (steps.append("named"), link(*paths, **more)))
    write(tmp_path / "a.tar", "new")

    named = steps.index("named")
    assert steps[named - 1].endswith("/whole")
    assert steps[named + 1 :] == [str(tmp_path)]
