"""Folders that the catalog does not know: held against what they say of themselves, or told what is missing."""

from __future__ import annotations

import json
import shutil

import pytest

from engine.errors import UnreadableError, WrongBytesError
from registry.errors import CorruptError, NotFoundError
from tests.registry.artifacts import world


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    return world.sqlite_alone(sqlite_template, tmp_path)


@pytest.fixture
def copied(registry, tmp_path):
    """A copy of what one request made."""

    def make(kind, *refs):
        registry.materialize(refs, kind=kind, to=tmp_path / "out")
        return shutil.copytree(tmp_path / "out", tmp_path / "copy")

    return make


def verify(registry, folder):
    return registry.verify_artifact(str(folder))


def test_images_are_held_against_their_own_map(registry, copied):
    copy = copied("hotswap", "team/a", "team/b")

    found = verify(registry, copy)

    assert (found.artifact, found.status, found.files, found.tensors, found.path) == (None, "pass", 1, 2, copy)


def test_a_wrong_image_is_named(registry, copied):
    copy = copied("hotswap", "team/a", "team/b")
    world.flip(copy / "adapters.safetensors")

    with pytest.raises(CorruptError, match=r"adapters\.safetensors: image team/b@1: wrong bytes") as caught:
        verify(registry, copy)

    assert caught.value.exit_code == 6


def test_a_map_that_was_changed_is_wrong_bytes(registry, copied):
    file = copied("hotswap", "team/a") / "adapters.safetensors"
    content = file.read_bytes()
    assert content.count(b"team/a@1") >= 2
    file.write_bytes(content.replace(b"team/a@1", b"team/z@1"))

    with pytest.raises(WrongBytesError, match="map"):
        verify(registry, file.parent)


def test_images_of_another_version_are_told(registry, copied):
    """A release to come may lay them out otherwise: that is no damage."""
    file = copied("hotswap", "team/a") / "adapters.safetensors"
    content = file.read_bytes()
    assert content.count(b'"hotswap":"1"') == 1
    file.write_bytes(content.replace(b'"hotswap":"1"', b'"hotswap":"9"'))

    with pytest.raises(UnreadableError, match="hot-swap images of version '9'; expected version 1") as caught:
        verify(registry, file.parent)

    assert caught.value.exit_code == 2


def test_a_list_of_another_schema_is_told(registry, copied):
    place = copied("merged", "team/a") / "materialize.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "schema": 2}))

    with pytest.raises(
        UnreadableError, match=r"materialize\.json: is of schema 2, of another release; this one reads 1"
    ):
        verify(registry, place.parent)


def test_an_adapter_says_nothing_of_its_bytes(registry, copied):
    copy = copied("peft", "team/a")

    with pytest.raises(
        NotFoundError, match="knows no artifact there, and an adapter says nothing of its bytes"
    ) as caught:
        verify(registry, copy)

    assert caught.value.hint == f"adapters which {copy}"


def test_a_folder_of_anything_else_is_told_what_it_lacks(registry, tmp_path):
    (tmp_path / "mine").mkdir()

    with pytest.raises(NotFoundError, match=r"holds neither materialize\.json nor adapters\.safetensors"):
        verify(registry, tmp_path / "mine")


def test_a_link_in_the_place_of_images_is_not_followed(registry, copied, tmp_path):
    file = copied("hotswap", "team/a") / "adapters.safetensors"
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")

    with pytest.raises(Exception, match=r"adapters\.safetensors"):
        verify(registry, file.parent)
