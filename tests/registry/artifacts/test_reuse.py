"""From one folder to another: what shares its bytes, what is copied, and what a place looks like afterwards."""

import os

import pytest

from registry.artifacts import reuse
from registry.artifacts.contents import contents_of
from registry.artifacts.places import Place, here, place_of, with_place, without
from registry.artifacts.reuse import bring, move_aside
from registry.errors import ConflictError, CorruptError


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source"
    (place / "code").mkdir(parents=True)
    (place / "weights.bin").write_bytes(bytes(range(256)) * 8)
    (place / "code" / "own.py").write_text("x = 1\n")
    return place


@pytest.fixture
def linking(monkeypatch):
    """Files of 1 kB and more count as large, on a file system without clones."""
    monkeypatch.setattr(reuse, "_LINKED", 1024)
    monkeypatch.setattr(reuse, "_cloned", lambda source, target: False)


def mode(path):
    return path.stat().st_mode & 0o777


def test_small_files_are_copied_and_stay_writable(source, tmp_path):
    assert bring(source, contents_of(source), tmp_path / "to") == "copied"

    for name in ("weights.bin", "code/own.py"):
        one, other = source / name, tmp_path / "to" / name
        assert other.read_bytes() == one.read_bytes()
        assert other.stat().st_ino != one.stat().st_ino
        assert mode(other) & 0o200
        assert mode(one) & 0o200


@pytest.mark.usefixtures("linking")
def test_a_large_file_is_linked_and_read_only_in_both_places(source, tmp_path):
    """Who writes into one of them has to replace it, so that the other stays as it is."""
    contents = contents_of(source)

    assert bring(source, contents, tmp_path / "to") == "linked"

    one, other = source / "weights.bin", tmp_path / "to" / "weights.bin"
    assert one.stat().st_ino == other.stat().st_ino
    assert mode(one) == mode(other) == 0o444
    assert mode(source / "code" / "own.py") & mode(tmp_path / "to" / "code" / "own.py") & 0o200
    assert bring(tmp_path / "to", contents, tmp_path / "third") == "linked"
    assert one.stat().st_nlink == 3


@pytest.mark.usefixtures("linking")
def test_where_no_link_is_possible_it_is_a_copy(source, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)

    assert bring(source, contents_of(source), tmp_path / "to") == "copied"

    assert mode(source / "weights.bin") & 0o200
    assert (tmp_path / "to" / "weights.bin").read_bytes() == (source / "weights.bin").read_bytes()


@pytest.mark.usefixtures("linking")
def test_a_link_to_another_users_file_leaves_its_mode(source, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.fchmod", refuse)

    assert bring(source, contents_of(source), tmp_path / "to") == "linked"
    assert mode(source / "weights.bin") & 0o200


@pytest.mark.usefixtures("linking")
@pytest.mark.parametrize("name", ["weights.bin", "code/own.py"])
def test_a_changed_source_is_named_and_nothing_is_left(source, tmp_path, name):
    contents = contents_of(source)
    content = bytearray((source / name).read_bytes())
    content[3] ^= 1
    (source / name).write_bytes(content)

    with pytest.raises(CorruptError) as caught:
        bring(source, contents, tmp_path / "to")

    assert caught.value.subject == str(source / name)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["source"]


def test_a_source_that_lacks_a_file_or_has_a_link_for_one_is_told(source, tmp_path):
    contents = contents_of(source)
    (source / "weights.bin").rename(source / "moved.bin")
    with pytest.raises(CorruptError, match=r"weights\.bin: wrong bytes: expected a file, found No such file"):
        bring(source, contents, tmp_path / "to")

    (source / "weights.bin").symlink_to("moved.bin")
    with pytest.raises(CorruptError, match=r"weights\.bin"):
        bring(source, contents, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_what_is_no_part_of_it_stays_where_it_is(source, tmp_path):
    contents = contents_of(source)
    (source / "notes.txt").write_text("mine")

    bring(source, contents, tmp_path / "to")

    assert sorted(one.name for one in (tmp_path / "to").iterdir()) == ["code", "weights.bin"]


def test_a_place_that_is_taken_is_left(source, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("mine")

    with pytest.raises(ConflictError, match="to exists already"):
        bring(source, contents_of(source), tmp_path / "to")

    assert [one.name for one in (tmp_path / "to").iterdir()] == ["mine"]


def test_a_folder_moves_to_the_first_free_name_beside(source, tmp_path):
    (tmp_path / "source.changed-1").symlink_to("nowhere")

    assert move_aside(source) == tmp_path / "source.changed-2"
    assert (tmp_path / "source.changed-2" / "weights.bin").exists()
    assert not source.exists()


# Places


def test_a_place_tells_what_became_of_its_files(source, tmp_path):
    place = place_of(source, contents_of(source))
    assert (place.path, place.host, place.state) == (str(source), here(), "unchanged")

    (source / "notes.txt").write_text("no part of it")
    assert place.state == "unchanged"

    os.utime(source / "weights.bin", ns=(0, 0))
    assert place.state == "changed"

    source.rename(tmp_path / "away")
    assert place.state == "missing"

    (tmp_path / "source").symlink_to("nowhere")
    assert place.state == "changed"


@pytest.mark.parametrize("spoil", ["unlink", "longer"])
def test_a_place_whose_file_is_gone_or_longer_is_changed(source, spoil):
    place = place_of(source, contents_of(source))
    file = source / "code" / "own.py"
    known = file.stat()
    if spoil == "unlink":
        file.unlink()
    else:
        file.write_text("x = 10\n")
        os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))

    assert place.state == "changed"


def test_a_place_survives_json_and_says_of_another_host_nothing(source):
    place = place_of(source, contents_of(source))

    assert Place.of_json(place.as_json()) == place
    assert Place("elsewhere", place.path, place.files).state == "elsewhere"
    assert not Place("elsewhere", place.path, place.files).here


def test_a_place_is_stamped_where_the_files_are_on_their_way_to_it(source, tmp_path):
    place = place_of(tmp_path / "to", contents_of(source), seen=source)
    assert place.state == "missing"

    source.rename(tmp_path / "to")
    assert place.state == "unchanged"


def test_a_folder_is_one_place_of_a_host_and_the_newest_word_of_it_counts():
    places = [Place(here(), "/a", {}), Place("other", "/a", {}), Place(here(), "/b", {})]
    newer = Place(here(), "/a", {"f": (1, 2)})

    assert with_place(places, newer) == [*places[1:], newer]
    assert without(places, "/a") == places[1:]
    assert without(places, "/none") == places
