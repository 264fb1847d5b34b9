"""`adapters pull REF --to hf://…` against a local Hub."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.registry.hub.server import commit, sha256

PLACE = "hf://team/sql-lora"


def front(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def sent(shell, *more, ref="team/sql@1", place=PLACE):
    return json.loads(shell.say("pull", ref, "--to", place, "--format", "json", *more))


class TestANewRepo:
    def test_is_private_and_holds_the_files_and_a_card_in_one_commit(self, hub, shell, work):
        result = sent(shell)

        repo = hub.repos["team/sql-lora"]
        assert repo.private
        assert hub.messages == ["Upload team/sql@1"]
        assert sorted(repo.head) == [".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"]
        assert repo.head["adapter_model.safetensors"] == (work / "one" / "adapter_model.safetensors").read_bytes()
        assert result["path"] == f"hf://team/sql-lora@{repo.refs['main']}"
        assert (result["ref"], result["created"], result["private"]) == ("team/sql@1", True, True)

    def test_is_public_when_asked_for(self, hub, shell):
        assert sent(shell, "--public")["private"] is False
        assert not hub.repos["team/sql-lora"].private

    def test_prints_the_place_at_its_commit(self, hub, shell):
        shown = shell.say("pull", "team/sql@1", "--to", PLACE)

        assert shown == f"hf://team/sql-lora@{hub.repos['team/sql-lora'].refs['main']}\n"

    def test_can_be_pushed_back_with_the_same_weights(self, hub, shell):
        sent(shell)

        shell.say("push", PLACE, "team/back")

        there, back = (json.loads(shell.say("show", ref, "--format", "json")) for ref in ("team/sql", "team/back"))
        assert back["tensors_digest"] == there["tensors_digest"]
        assert back["tags"] == {"source": f"{PLACE}@{hub.repos['team/sql-lora'].refs['main']}"}

    def test_in_a_folder_of_a_repo(self, hub, shell):
        hub.add("team/many", {"README.md": b"# all of ours\n"}, private=True)

        sent(shell, place="hf://team/many/sql")

        assert sorted(hub.repos["team/many"].head) == [
            "README.md",
            "sql/README.md",
            "sql/adapter_config.json",
            "sql/adapter_model.safetensors",
        ]
        assert hub.repos["team/many"].head["README.md"] == b"# all of ours\n"


class TestTheCard:
    def test_names_base_relation_and_library(self, hub, shell):
        sent(shell)

        assert front(hub.repos["team/sql-lora"].head["README.md"]) == {
            "base_model": "team/base",
            "base_model_relation": "adapter",
            "library_name": "peft",
            "tags": ["lora"],
        }

    def test_keeps_the_authors_words(self, hub, shell, work):
        own = "---\r\nlicense: mit  # by the author\r\ntags: [sql]\r\n---\r\n# Ours\r\n\r\nWe trained it.\r\n"
        (work / "one" / "README.md").write_bytes(own.encode())
        shell.say("push", "./one", "team/carded")

        sent(shell, ref="team/carded")

        card = hub.repos["team/sql-lora"].head["README.md"].decode()
        assert card.startswith("---\r\nlicense: mit  # by the author\r\ntags: [sql]\r\nbase_model: team/base\r\n")
        assert "# Ours\r\n\r\nWe trained it." in card
        assert yaml.safe_load(card.split("---\r\n")[1])["tags"] == ["sql"]


class TestWhatIsThere:
    def test_the_same_content_is_left_alone(self, hub, shell):
        first = sent(shell)

        again = sent(shell)

        assert (again["created"], again["path"]) == (False, first["path"])
        assert len(hub.messages) == 1

    def test_other_content_is_a_conflict_that_changes_nothing(self, hub, shell):
        sent(shell)
        shell.say("push", "./two", "team/sql")
        before = hub.repos["team/sql-lora"].refs["main"]

        line = shell.refused("pull", "team/sql@2", "--to", PLACE, code=5, named=PLACE)

        assert "README.md, adapter_model.safetensors" in line
        assert hub.repos["team/sql-lora"].refs["main"] == before

    def test_force_replaces_the_adapter_and_leaves_the_rest(self, hub, shell, adapter, work):
        files = {**adapter, "adapter_model.bin": b"old", "tokenizer.json": b"{}", "LICENSE": b"MIT", "eval/a.txt": b"1"}
        hub.add("team/sql-lora", files, private=True)

        result = sent(shell, "--force")

        head = hub.repos["team/sql-lora"].head
        assert sorted(head) == [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "eval/a.txt",
        ]
        assert head["adapter_model.safetensors"] == (work / "one" / "adapter_model.safetensors").read_bytes()
        assert result["removed"] == ["adapter_model.bin", "tokenizer.json"]

    def test_a_public_repo_is_written_to_only_when_that_is_said(self, hub, shell):
        hub.add("team/sql-lora", {"LICENSE": b"MIT"})

        line = shell.refused("pull", "team/sql@1", "--to", PLACE, code=5, named=PLACE)
        sent(shell, "--public")

        assert "everyone can read" in line
        assert "adapter_model.safetensors" in hub.repos["team/sql-lora"].head

    def test_a_dry_run_tells_and_changes_nothing(self, hub, shell):
        assert sent(shell, "--dry-run")["path"] is None
        assert hub.repos == {}

        sent(shell)
        shell.say("push", "./two", "team/sql")
        plan = sent(shell, "--dry-run", "--force", ref="team/sql@2")

        assert plan["replaced"] == ["README.md", "adapter_model.safetensors"]
        assert len(hub.messages) == 1


class TestFailures:
    def test_a_commit_that_happened_meanwhile_wins(self, hub, shell):
        repo = hub.add("team/sql-lora", {"LICENSE": b"MIT"}, private=True)
        hub.fault("POST .*/preupload", lambda handler: (repo.commit({"LICENSE": b"other"}), handler.fail(503, "busy")))

        shell.refused("pull", "team/sql@1", "--to", PLACE, code=5, named="changed meanwhile")

        assert repo.head == {"LICENSE": b"other"}

    def test_a_commit_whose_answer_is_lost_is_found(self, hub, shell):
        def lose(handler):
            answer, handler.answer = handler.answer, lambda *args: None
            commit(handler, "team/sql-lora", "main")
            handler.answer = answer
            handler.close_connection = True
            handler.connection.close()

        hub.fault("POST .*/commit/main", lose)

        result = sent(shell)

        assert result["path"] == f"{PLACE}@{hub.repos['team/sql-lora'].refs['main']}"
        assert len(hub.messages) == 1

    def test_a_commit_that_nobody_can_tell_of_is_unknown_and_found_by_running_again(self, hub, shell, monkeypatch):
        monkeypatch.setattr("registry.hub.client._TRIES", 1)

        def lose(handler):
            answer, handler.answer = handler.answer, lambda *args: None
            commit(handler, "team/sql-lora", "main")
            handler.answer = answer
            hub.fault("GET /api/models/", lambda other: other.fail(500, "away"))
            handler.fail(502, "no answer from upstream")

        hub.fault("POST .*/commit/main", lose)

        code, out, err = shell("pull", "team/sql@1", "--to", PLACE)

        assert (code, out) == (7, "")
        assert "whether the commit was made is unknown" in err
        assert "hint: run the command again" in err
        assert sent(shell)["created"] is False
        assert len(hub.messages) == 1

    def test_a_commit_that_was_refused_leaves_nothing_behind(self, hub, shell):
        hub.fault("POST .*/commit/main", lambda handler: handler.fail(500, "no"))

        shell.refused("pull", "team/sql@1", "--to", PLACE, code=7, named="500")

        assert sorted(hub.repos["team/sql-lora"].head) == [".gitattributes"]
        assert sent(shell)["created"]

    def test_bytes_that_the_hub_lists_otherwise_are_told(self, hub, shell):
        def spoil(handler):
            commit(handler, "team/sql-lora", "main")
            hub.repos["team/sql-lora"].head["adapter_config.json"] = b"{}"

        hub.fault("POST .*/commit/main", spoil)

        shell.refused("pull", "team/sql@1", "--to", PLACE, code=6, named="adapter_config.json")

    @pytest.mark.parametrize(("place", "code", "named"), [("hf://other/x", 7, "may not"), (f"{PLACE}@dev", 4, PLACE)])
    def test_what_may_not_be_written_is_named(self, hub, shell, place, code, named):
        shell.refused("pull", "team/sql@1", "--to", place, code=code, named=named)
        assert hub.repos == {}

    @pytest.mark.parametrize("option", ["--public", "--force", "--dry-run"])
    def test_its_options_are_for_the_hub_alone(self, bare, option):
        bare.refused("pull", "team/sql", "--to", "./x", option, code=2, named="hf://")


def test_the_weights_travel_once(hub, shell):
    sent(shell)

    assert len(hub.uploads) == 1
    assert sha256(hub.repos["team/sql-lora"].head["adapter_model.safetensors"]) in hub.uploads


def test_a_card_too_long_to_be_added_to_is_refused_before_the_hub_is_asked(hub, shell, work):
    (work / "one/README.md").write_bytes(b"#" * ((8 << 20) + 1))
    shell.say("push", "./one", "team/long")

    shell.refused("pull", "team/long", "--to", PLACE, code=2, named="README.md: 8388609 bytes")
    assert hub.seen == []
