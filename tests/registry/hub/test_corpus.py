"""Adapters of strangers, as a repo each, imported from a local Hub: what arrives is what lies in the corpus."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.registry.hub.test_bulk import imported

CORPUS = Path(__file__).parents[3].parent / "shared" / "corpus" / "weights"
LARGEST = 2_000_000  # bytes of a folder: the larger ones hold nothing that these do not

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus ../shared/corpus is not here")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_adapter_arrives_whole_or_is_told_why_not(hub, shell):
    folders = [folder for folder in sorted(CORPUS.iterdir()) if (folder / "adapter_config.json").is_file()]
    repos = {f"corpus/repo-{number:02}": content(folder) for number, folder in enumerate(folders)}
    repos = {name: files for name, files in repos.items() if sum(map(len, files.values())) < LARGEST}
    for name, files in repos.items():
        hub.add(name, files)

    code, out, _ = shell("import", "hf://corpus/*", "--format", "json")

    report = json.loads(out)
    told = {repo["source"].removeprefix("hf://").partition("@")[0]: repo for repo in report["repos"]}
    assert told.keys() == repos.keys()
    assert code in (0, 1, 2)
    for name, files in repos.items():
        if told[name]["status"] != "created":
            assert told[name]["why"], name
            pickled = "adapter_model.bin" in files and "adapter_model.safetensors" not in files
            assert pickled == ("not taken" in told[name]["why"]), name
            continue
        found = json.loads(shell.say("show", told[name]["ref"], "--format", "json"))
        for file in found["files"]:
            assert file["sha256"] == f"sha256:{sha256(files[file['path']]).hexdigest()}"
    assert sum(repo["status"] == "created" for repo in told.values()) >= 3
    assert {repo["status"] for repo in told.values()} <= {"created", "unchanged", "refused", "failed"}


def test_nothing_is_downloaded_twice(hub, shell):
    folder = next(place for place in sorted(CORPUS.iterdir()) if (place / "adapter_model.safetensors").is_file())
    hub.add("corpus/one", content(folder))

    first = imported(shell, source="hf://corpus/*")
    hub.seen.clear()
    again = imported(shell, source="hf://corpus/*")

    assert [first["repos"][0]["status"], again["repos"][0]["status"]] == ["created", "unchanged"]
    assert hub.asked("resolve|cdn|tree") == 0
