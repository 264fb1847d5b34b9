"""The pull cache through the real command line: shared by two homes, listed, pruned, linked from."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def cache(shell, monkeypatch, tmp_path):
    """One cache for all homes of this test."""
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "shared"))
    return tmp_path / "shared"


def test_a_version_pulled_under_one_home_is_there_under_another(shell, cache, monkeypatch, tmp_path):
    first = shell.say("pull", "team/sql", "--format", "quiet")
    digest = json.loads(shell.say("show", "team/sql", "--format", "json"))["digest"]
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("ADAPTERS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    assert first == f"{cache / digest.removeprefix('sha256:')}\n"
    assert shell.say("pull", f"team/sql@{digest}", "--format", "quiet") == first


def test_what_is_listed_can_be_pruned_and_pulled_again(shell, cache):
    path = shell.say("pull", "team/sql", "--format", "quiet")
    (entry,) = json.loads(shell.say("cache", "ls", "--format", "json"))

    assert (entry["path"], entry["refs"], entry["state"]) == (path.strip(), ["team/sql@1"], "ok")
    planned = json.loads(shell.say("cache", "prune", "--older-than", "0", "--dry-run", "--format", "json"))
    assert planned == {
        "dry_run": True,
        "entries": 1,
        "bytes": entry["size"],
        "temporary": 0,
        "removed": [entry["digest"]],
        "kept": {},
    }
    assert shell.say("cache", "prune", "--max-size", "1GB").startswith("removed 0 pulled versions")
    assert shell.say("cache", "prune", "--max-size", "0", "--format", "quiet") == f"{entry['digest']}\n"
    assert json.loads(shell.say("cache", "ls", "--format", "json")) == []
    assert list(cache.iterdir()) == []
    assert shell.say("pull", "team/sql", "--format", "quiet") == path


def test_links_are_the_caches_files(shell, cache, work):
    shell.say("pull", "team/sql", "--to", "./linked", "--link")

    (entry,) = json.loads(shell.say("cache", "ls", "--format", "json"))
    for path in (work / "linked").iterdir():
        assert path.samefile(f"{entry['path']}/{path.name}")
        assert not path.stat().st_mode & 0o222


def test_bad_bounds_are_named(shell, cache):
    shell.refused("cache", "prune", "--older-than", "30x", code=2, named="30x")
    shell.refused("cache", "prune", "--max-size", "much", code=2, named="much")
    shell.refused("pull", "team/sql", "--link", code=2, named="links need a folder")


def test_a_damaged_entry_is_replaced_and_without_its_blob_it_is_wrong_bytes(shell, cache):
    config = Path(shell.say("pull", "team/sql", "--format", "quiet").strip()) / "adapter_config.json"
    for blobs, code in ((True, 0), (False, 6)):
        config.chmod(0o644)
        config.write_bytes(config.read_bytes() + b" ")
        if not blobs:
            digest = next(
                entry["sha256"]
                for entry in json.loads(shell.say("show", "team/sql", "--format", "json"))["files"]
                if entry["path"] == "adapter_config.json"
            )
            (shell.home / "blobs" / "sha256" / digest[7:9] / digest[7:]).unlink()
        assert shell("pull", "team/sql")[0] == code
