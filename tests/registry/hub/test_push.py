"""`adapters push hf://…` against a local Hub."""

from __future__ import annotations

import json

from tests.registry.hub.server import sha256


def test_a_repo_becomes_a_version_that_names_its_commit(hub, shell, adapter):
    repo = hub.add("team/SQL-lora", {**adapter, "training_args.bin": b"pickle"})

    shown = json.loads(shell.say("push", "hf://team/SQL-lora", "team/hub", "--format", "json"))
    found = json.loads(shell.say("show", "team/hub", "--format", "json"))

    assert (shown["ref"], shown["created"]) == ("team/hub@1", True)
    assert shown["left_out"] == [".gitattributes", "training_args.bin"]
    assert found["tags"] == {"source": f"hf://team/SQL-lora@{repo.refs['main']}"}
    assert {file["path"]: file["sha256"] for file in found["files"]} == {
        path: f"sha256:{sha256(adapter[path])}"
        for path in ("README.md", "adapter_config.json", "adapter_model.safetensors")
    }
    assert hub.asked("resolve/.*training_args") == 0
