"""Pull through the API: exact bytes, one folder per digest, wrong bytes never, and without database or store."""

import os
import shutil

import pytest

from registry.errors import ConflictError, CorruptError, NotFoundError, UnavailableError
from tests.registries import make_adapter, open_registry


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pushed(prepared, tmp_path):
    """A registry that holds team/sql@1, and the folder it was pushed from."""
    return prepared(push_one), tmp_path / "a"


def push_one(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/sql", aliases=["prod"])


def test_a_pull_gives_the_pushed_bytes_at_a_path_of_their_digest(pushed):
    registry, folder = pushed
    result = registry.pull_result("team/sql@prod")

    assert content(result.path) == content(folder)
    assert result.path == registry.settings.pulled / result.digest.removeprefix("sha256:")
    assert registry.pull("team/sql@1") == result.path


def test_a_pull_to_a_folder_is_the_callers_own_copy(pushed, tmp_path):
    registry, folder = pushed
    place = registry.pull("team/sql", to=tmp_path / "mine")

    assert content(place) == content(folder)
    assert os.access(place / "adapter_config.json", os.W_OK)


def test_a_destination_with_other_content_is_a_conflict(pushed, tmp_path):
    registry, _ = pushed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")

    with pytest.raises(ConflictError, match="mine"):
        registry.pull("team/sql", to=tmp_path / "mine")
    assert content(tmp_path / "mine") == {"notes.txt": b"keep me"}


def test_a_flipped_byte_in_the_store_is_never_pulled(pushed, tmp_path):
    registry, _ = pushed
    digest = next(entry.sha256 for entry in registry.show("team/sql").files if "model" in entry.path)
    blob = registry.settings.blobs / "sha256" / digest[7:9] / digest[7:]
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(damaged)

    for options in ({}, {"to": tmp_path / "mine"}):
        with pytest.raises(CorruptError) as wrong:
            registry.pull("team/sql", **options)
        assert wrong.value.expected == digest
    assert not (tmp_path / "mine").exists()
    with pytest.raises(CorruptError):
        registry.verify("team/sql")


def test_a_damaged_pulled_copy_is_replaced_from_the_store(pushed):
    registry, folder = pushed
    place = registry.pull("team/sql")
    weights = place / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    assert content(registry.pull("team/sql")) == content(folder)


def test_a_pulled_digest_is_found_with_database_and_store_down(pushed, tmp_path):
    """P8: the reference must name the digest, since nobody can say what an alias means."""
    registry, folder = pushed
    digest = registry.pull_result("team/sql").digest
    shutil.rmtree(registry.settings.blobs)
    down = open_registry(registry.settings.home, "postgresql+psycopg://nobody@127.0.0.1:1/none")

    assert content(down.pull(f"team/sql@{digest[:30]}")) == content(folder)
    with pytest.raises(UnavailableError):
        down.pull("team/sql@prod")


def test_what_is_not_there_is_named(pushed):
    registry, _ = pushed
    for ref in ("team/none", "team/sql@2", "team/sql@staging"):
        with pytest.raises(NotFoundError, match=ref.split("@")[-1]):
            registry.pull(ref)


def test_a_pin_that_does_not_hold_is_a_conflict(pushed):
    registry, _ = pushed

    with pytest.raises(ConflictError, match="prod"):
        registry.pull(f"team/sql@prod@sha256:{'0' * 64}")
