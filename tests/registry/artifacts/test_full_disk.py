"""A full disk is exit 7 for every form and every way to a folder, and leaves nothing but what was there."""

from __future__ import annotations

import os
import re

import pytest

from registry.artifacts import reuse
from registry.artifacts.contents import contents_of
from registry.cli.failure import run
from registry.errors import UnavailableError
from tests.registry.artifacts import world
from tests.registry.places import mounted, remount

PAGE = 4096
FORMS = {
    "merged": ["team/a", "--as", "merged"],
    "hotswap": ["team/a", "team/b", "--as", "hotswap"],
    "peft": ["team/a", "--as", "peft"],
    "padded": ["team/a", "--as", "peft", "--rank", "8"],
    "rewritten": ["team/a", "--as", "peft", "--for", "vllm"],
}
FULL = re.compile(r"^error: .*(No space left on device|needs \d+ bytes, \d+ are free there)", re.MULTILINE)


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    return world.sqlite_alone(sqlite_template, tmp_path)


@pytest.fixture
def say(registry, capfd):
    """A command line: its exit code and what it said."""

    def run_it(*words):
        code = run([*map(str, words), "--home", str(registry.settings.home)])
        told = capfd.readouterr()
        return code, told.out, told.err

    return run_it


@pytest.fixture
def disk():
    with mounted("tmpfs", "-o", "size=1m") as place:
        yield place


def fill(place, *, free):
    """Leaves this many bytes, in pages."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    space = os.statvfs(place)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))


def until_it_fits(say, disk, *words, step=1):
    """The command with 0, 1, 2, … pages left; the refusals before the one that ends well."""
    before, refusals = sorted(path.name for path in disk.iterdir()), []
    for pages in range(0, 100, step):
        fill(disk, free=PAGE * pages)
        code, out, err = say(*words)
        (disk / "ballast").unlink()
        if code == 0:
            return refusals
        assert (code, out) == (7, ""), err
        assert FULL.search(err), err
        left = sorted(path.name for path in disk.iterdir() if not path.name.endswith(".partial"))
        assert left == before
        assert f"{disk / 'out'}: needs" in err or "are free there" not in err
        refusals.append(err)
    pytest.fail("it never fitted")


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_has_no_room_is_exit_7_and_leaves_nothing(say, disk, form):
    words = ["materialize", *FORMS[form], "--to", disk / "out"]

    refusals = until_it_fits(say, disk, *words)

    assert refusals
    assert [path.name for path in disk.iterdir()] == ["out"]
    assert say("artifacts", "verify", disk / "out")[0] == 0


def test_a_copy_that_has_no_room_is_exit_7_and_its_source_stays_a_place(say, registry, disk, tmp_path):
    """That the copy found no room says nothing of the folder that it is made from."""
    registry.materialize(["team/a"], kind="merged", to=tmp_path / "one")

    refusals = until_it_fits(say, disk, "materialize", "team/a", "--as", "merged", "--to", disk / "out")

    assert all("was changed" not in err for err in refusals)
    assert [place.path for place in registry.artifacts()[0].places] == [str(tmp_path / "one"), str(disk / "out")]


def test_links_that_have_no_room_are_exit_7(say, registry, disk, monkeypatch):
    """The weights take none, the small files and folders do."""
    monkeypatch.setattr(reuse, "_LINKED", 300)
    monkeypatch.setattr(reuse, "_cloned", lambda source, target: False)
    registry.materialize(["team/a"], kind="merged", to=disk / "one")

    assert until_it_fits(say, disk, "materialize", "team/a", "--as", "merged", "--to", disk / "out")

    weights = [(disk / name / "model.safetensors").stat().st_ino for name in ("one", "out")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("verb", ["materialize", "rebuild"])
def test_a_restored_artifact_that_has_no_room_is_exit_7(say, registry, disk, tmp_path, verb):
    registry.materialize(["team/a"], kind="merged", to=tmp_path / "one", store=True)
    world.delete(tmp_path / "one")
    words = ["materialize", "team/a", "--as", "merged"]
    if verb == "rebuild":
        registry.remove("team/a")
        words = ["artifacts", "rebuild", "1"]

    refusals = until_it_fits(say, disk, *words, "--to", disk / "out")

    assert refusals
    assert all("store's copy is wrong" not in err for err in refusals)
    assert say("artifacts", "verify", disk / "out")[0] == 0


def test_a_rebuild_that_has_no_room_is_exit_7(say, registry, disk, tmp_path):
    registry.materialize(["team/a"], kind="merged", to=tmp_path / "one")

    assert until_it_fits(say, disk, "artifacts", "rebuild", "1", "--to", disk / "out", step=2)


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_is_read_only_is_exit_7(say, disk, form):
    remount(disk, "ro")

    code, out, err = say("materialize", *FORMS[form], "--to", disk / "out")

    assert (code, out) == (7, "")
    assert "Read-only file system" in err


def test_a_disk_that_fills_while_a_file_is_copied_is_not_the_sources_fault(tmp_path, disk):
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights.bin").write_bytes(os.urandom(64 << 10))
    fill(disk, free=8 * PAGE)

    with pytest.raises(UnavailableError, match=rf"^{disk / 'out'}: No space left on device"):
        reuse.bring(source, contents_of(source), disk / "out")

    assert [path.name for path in disk.iterdir()] == ["ballast"]
