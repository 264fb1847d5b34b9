"""Where a new folder may come: on this machine, not where the registry takes away what it does not know."""

import os
from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.files.newplace import new_place


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home" / "blobs").mkdir(parents=True)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("out", "{cwd}/out"),
        ("./a/../out/", "{cwd}/out"),
        (Path("out"), "{cwd}/out"),
        ("~/out", "{user}/out"),
        ("日本", "{cwd}/日本"),
        ("x" * 255, "{cwd}/" + "x" * 255),
        ("a:b", "{cwd}/a:b"),
    ],
)
def test_a_place_is_absolute_without_dots(home, to, expected):
    assert new_place(to, [home]) == Path(expected.format(cwd=Path.cwd(), user=Path.home()))


@pytest.mark.parametrize(
    "place", ["home", "home/out", "home/blobs/sha256/ab/out", "link/out", "home/../home/out", "out/in"]
)
def test_the_registrys_own_folders_are_refused_by_name_also_through_links(home, tmp_path, place):
    (tmp_path / "link").symlink_to(home)
    (tmp_path / "out").symlink_to(home / "blobs")

    with pytest.raises(UsageError, match=rf"is inside the registry's own folder {home}$") as caught:
        new_place(tmp_path / place, [tmp_path / "cache", home])

    assert (caught.value.exit_code, caught.value.hint) == (2, "name a folder outside of it")


@pytest.mark.parametrize("place", ["homely", "home.out", "other/home"])
def test_a_name_that_begins_alike_is_another_folder(home, tmp_path, place):
    assert new_place(tmp_path / place, [home]) == tmp_path / place


def test_a_home_that_is_a_link_counts_where_it_leads(home, tmp_path):
    (tmp_path / "link").symlink_to(home)

    with pytest.raises(UsageError, match="registry's own folder"):
        new_place(home / "out", [tmp_path / "link"])


@pytest.mark.parametrize("to", ["a\0b", "hf://org/name", "s3://bucket/x", "file:///x", Path("hf://org/name")])
def test_what_is_no_folder_of_this_machine_is_refused(home, to):
    with pytest.raises(UsageError, match="expected a folder of this machine"):
        new_place(to, [home])


@pytest.mark.parametrize("name", ["x" * 256, "日" * 86, "below/" + "x" * 256])
def test_a_name_is_counted_in_bytes(home, name):
    with pytest.raises(UsageError, match="has a name longer than 255 bytes"):
        new_place(name, [home])


def test_a_path_is_counted_in_bytes_too(home):
    """4095 is what Linux takes."""
    long = "/" + "p/" * 2046
    assert len(str(new_place(f"{long}xx", [home]))) == 4095
    with pytest.raises(UsageError, match=r"…: is longer than 4095 bytes$"):
        new_place(f"{long}xxx", [home])


def test_a_user_who_does_not_exist_is_told(home):
    with pytest.raises(UsageError, match="home directory"):
        new_place("~nobody-of-that-name/out", [home])


def test_a_loop_of_links_is_no_inside(home, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    assert new_place(tmp_path / "loop" / "out", [home]) == tmp_path / "loop" / "out"
    assert os.path.lexists(tmp_path / "loop")
