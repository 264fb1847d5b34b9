"""`adapters push hf://…` against a local Hub: what is taken, from where, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing

import pytest

from registry.api import Registry
from registry.errors import CorruptError
from registry.hub import listing
from tests.registry.hub.server import TOKEN, git_sha1, sha256

REPO = "team/sql-lora"
PLACE = f"hf://{REPO}"


@pytest.fixture
def shell(bare, sqlite_template):
    """A shell with a registry in which nothing is."""
    bare.home.mkdir()
    (bare.home / "catalog.db").write_bytes(sqlite_template.read_bytes())
    return bare


@pytest.fixture
def repo(hub, adapter):
    return hub.add(REPO, adapter)


def pushed(shell, *more, place=PLACE, name="team/hub"):
    return json.loads(shell.say("push", place, name, "--format", "json", *more))


def shown(shell, ref="team/hub"):
    return json.loads(shell.say("show", ref, "--format", "json"))


class TestTaken:
    def test_a_repo_becomes_a_version_that_names_its_commit(self, hub, shell, adapter):
        repo = hub.add("team/SQL-lora", {**adapter, "training_args.bin": b"pickle"})

        result = pushed(shell, place="hf://team/SQL-lora")

        found = shown(shell)
        assert (result["ref"], result["created"]) == ("team/hub@1", True)
        assert result["left_out"] == [".gitattributes", "training_args.bin"]
        assert found["tags"] == {"source": f"hf://team/SQL-lora@{repo.refs['main']}"}
        assert {file["path"]: file["sha256"] for file in found["files"]} == {
            path: f"sha256:{sha256(adapter[path])}"
            for path in ("README.md", "adapter_config.json", "adapter_model.safetensors")
        }
        assert hub.asked("resolve/.*training_args") == 0

    def test_the_source_is_found_by_list(self, repo, shell):
        pushed(shell)

        out = shell.say("list", "--tag", f"source={PLACE}@{repo.refs['main']}", "--format", "quiet")

        assert out == "team/hub@1\n"

    @pytest.mark.parametrize("revision", ["dev", "feature/x", "v1.0", "refs/pr/3"])
    def test_a_branch_tag_or_pull_request_is_what_it_was_then(self, repo, shell, adapter, revision):
        before = repo.refs["main"]
        commit = repo.commit({**adapter, "README.md": b"other\n"}, revision)

        pushed(shell, place=f"{PLACE}@{revision}")

        assert shown(shell)["tags"]["source"] == f"{PLACE}@{commit}"
        assert commit != before

    def test_a_commit_is_found_also_when_branches_moved_on(self, repo, shell, adapter):
        first = repo.refs["main"]
        repo.commit({**adapter, "README.md": b"other\n"})

        pushed(shell, place=f"{PLACE}@{first}")

        files = {file["path"]: file["sha256"] for file in shown(shell)["files"]}
        assert files["README.md"] == f"sha256:{sha256(adapter['README.md'])}"

    def test_a_folder_of_a_repo(self, hub, shell, adapter):
        many = {f"adapters/{name}/{path}": data for name in ("sql", "chat") for path, data in adapter.items()}
        repo = hub.add("team/many", {**many, "README.md": b"all\n"})

        pushed(shell, place="hf://team/many/adapters/sql@main")

        found = shown(shell)
        assert found["tags"] == {"source": f"hf://team/many/adapters/sql@{repo.refs['main']}"}
        assert len(found["files"]) == 3

    def test_included_files_come_too(self, hub, shell, adapter):
        hub.add(REPO, {**adapter, "eval/results.json": b"{}"})

        pushed(shell, "--include", "eval/*.json")

        assert "eval/results.json" in [file["path"] for file in shown(shell)["files"]]

    def test_the_same_content_is_unchanged(self, repo, shell):
        pushed(shell)

        assert pushed(shell)["created"] is False

    def test_long_listings_are_read_to_the_end(self, hub, repo, shell):
        hub.page = 1

        assert pushed(shell)["created"]

    def test_what_is_cached_is_not_downloaded_again(self, hub, repo, shell):
        pushed(shell)
        hub.seen.clear()

        pushed(shell, name="team/again")

        assert hub.asked("resolve|cdn") == 0


class TestRefused:
    def test_a_pickle_names_the_command_that_converts_it(self, hub, shell, adapter):
        hub.add(REPO, {"adapter_config.json": adapter["adapter_config.json"], "adapter_model.bin": b"\x80\x04."})

        code, _, err = shell("push", PLACE, "team/hub")

        assert code == 2
        assert "adapter_model.bin is not taken, only safetensors is" in err
        assert (
            f"hint: hf download {REPO} --include 'adapter_*' --local-dir ./sql-lora"
            " && adapters convert ./sql-lora --to ./sql-lora-safetensors\n"
        ) in err
        assert hub.asked("resolve") == 0

    def test_a_repo_of_folders_names_one(self, hub, shell, adapter):
        hub.add(REPO, {f"sql/{path}": data for path, data in adapter.items()})

        code, _, err = shell("push", f"{PLACE}@main", "team/hub")

        assert code == 2
        assert f"adapters push {PLACE}/sql NAME" in err

    def test_an_include_that_matches_nothing(self, repo, shell):
        shell.refused("push", PLACE, "team/hub", "--include", "*.onnx", code=2, named="*.onnx")

    def test_a_source_tag_of_ones_own(self, repo, shell):
        shell.refused("push", PLACE, "team/hub", "--tag", "source=me", code=2, named=repo.refs["main"])

    def test_findings_name_the_place(self, hub, shell, adapter):
        config = json.loads(adapter["adapter_config.json"]) | {"r": 64}
        repo = hub.add(REPO, {**adapter, "adapter_config.json": json.dumps(config).encode()})

        code, out, err = shell("push", PLACE, "team/hub")

        assert code == 1
        assert f"{PLACE}@{repo.refs['main']}: refused by" in err
        assert out

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("hf://x", "hf://org/name"),
            ("hf://", "hf://org/name"),
            ("hf://team/../x", "'..'"),
            ("hf://team/x/../../y", "plain relative path"),
            ("hf://datasets/team/x", "not in datasets"),
            ("hf://team/x@", "no branch"),
            ("hf://team/x@a..b", "a..b"),
            ("hf://team/x@--help", "--help"),
            ("hf://te am/x", "te am"),
            ("hf://team/x.git", "x.git"),
            ("hf://team/x/con", "device"),
            ("hf://team/x?token=1", "x?token=1"),
        ],
    )
    def test_what_is_no_place(self, hub, shell, text, named):
        shell.refused("push", text, "team/hub", code=2, named=named)
        assert hub.seen == []


class TestAccess:
    @pytest.mark.parametrize(
        ("token", "place", "code", "named"),
        [
            (TOKEN, "hf://team/absent", 4, "no such repo"),
            (TOKEN, "hf://other/private", 4, "no such repo, or a private one that this token may not see"),
            ("", "hf://team/private", 4, "someone without a token"),
            ("", "hf://team/gated", 4, "gated"),
            (TOKEN, "hf://team/private@nope", 4, "no such revision"),
            (TOKEN, "hf://team/private/absent", 4, "no such file or folder"),
            ("hf_wrong", "hf://team/private", 7, "does not take this token"),
        ],
    )
    def test_what_may_not_be_read_is_named(self, hub, shell, adapter, monkeypatch, token, place, code, named):  # noqa: PLR0917 (fixtures)
        for name, facts in {
            "team/private": {"private": True},
            "other/private": {"private": True},
            "team/gated": {"gated": True},
        }.items():
            hub.add(name, adapter, **facts)
        monkeypatch.setenv("HF_TOKEN", token)

        line = shell.refused("push", place, "team/hub", code=code, named=named)

        assert place in line

    def test_a_private_repo_is_read_with_the_token_and_storage_never_sees_it(self, hub, shell, adapter):
        hub.add(REPO, adapter, private=True)

        pushed(shell)

        by_line = dict(hub.seen)
        assert by_line["GET /api/models/team/sql-lora"] == f"Bearer {TOKEN}"
        assert {given for line, given in hub.seen if "/cdn/" in line} == {None}

    def test_offline_the_hub_is_not_asked(self, hub, repo, shell, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

        shell.refused("push", PLACE, "team/hub", code=7, named="HF_HUB_OFFLINE is set")

        assert hub.seen == []


class TestWrongBytes:
    @pytest.mark.parametrize("path", ["adapter_model.safetensors", "adapter_config.json"])
    def test_of_the_right_size_are_named_with_both_hashes(self, hub, repo, shell, adapter, path):
        data = adapter[path]
        wrong = data[:-1] + bytes([data[-1] ^ 1])
        large = path.endswith(".safetensors")
        headers = {} if large else {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": repo.refs["main"]}
        line = f"GET /cdn/{sha256(data)}" if large else f"GET .*resolve/.*{path}"
        hub.fault(line, lambda handler: handler.answer(200, wrong, headers), times=9)
        expected = f"sha256:{sha256(data)}" if large else f"git-sha1:{git_sha1(data)}"
        found = f"sha256:{sha256(wrong)}" if large else f"git-sha1:{git_sha1(wrong)}"

        told = shell.refused("push", PLACE, "team/hub", code=6, named=path)

        assert f"expected {expected}, found {found}" in told
        assert shell("show", "team/hub")[0] == 4

    def test_in_the_cache_are_replaced_once(self, hub, repo, shell, adapter, tmp_path):
        pushed(shell)
        (blob,) = (tmp_path / "cache").glob(f"*/blobs/{sha256(adapter['adapter_model.safetensors'])}")
        blob.write_bytes(b"x" * blob.stat().st_size)

        assert pushed(shell, name="team/again")["tensors_digest"] == shown(shell)["tensors_digest"]
        assert hub.asked("GET /cdn/") == 2

    def test_a_short_file_is_wrong_bytes(self, hub, repo, shell, adapter):
        data = adapter["adapter_model.safetensors"]
        hub.fault("GET /cdn/", lambda handler: handler.answer(200, data[:-8]), times=9)

        shell.refused(
            "push", PLACE, "team/hub", code=6, named=f"expected {len(data)} bytes, found {len(data) - 8} bytes"
        )

    def test_a_file_without_an_end_is_left(self, hub, repo, shell):
        def endless(handler):
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for _ in range(10_000):
                handler.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")

        hub.fault("GET /cdn/", endless, times=2)

        shell.refused("push", PLACE, "team/hub", code=6, named="found more")

    def test_that_came_into_the_cache_after_the_check_are_seen_too(self, hub, repo, bare, tmp_path):
        """What counts is the copy that was made, not the file that was looked at before."""

        def swap(label, done, total):
            if label == "copying" and done == 0:
                (blob,) = (tmp_path / "cache").glob(f"*/blobs/{sha256(repo.head['adapter_model.safetensors'])}")
                blob.write_bytes(b"x" * blob.stat().st_size)

        with closing(Registry.open(tmp_path / "home")) as registry, pytest.raises(CorruptError, match="safetensors"):
            registry.push(PLACE, "team/hub", progress=swap)


class TestFailures:
    def test_a_busy_hub_is_asked_again_after_the_time_it_names(self, hub, repo, shell):
        hub.fault("GET /api/models/", lambda handler: handler.fail(429, "slow down", **{"Retry-After": "1"}))

        assert pushed(shell)["created"]
        assert hub.asked("GET /api/models/team/sql-lora$") == 2

    def test_a_hub_that_asks_for_an_hour_is_left_at_once(self, hub, repo, shell):
        hub.fault("HEAD ", lambda handler: handler.fail(429, "slow down", **{"Retry-After": "3600"}), times=9)

        shell.refused("push", PLACE, "team/hub", code=7, named="asks to wait for 3600 s")

        assert hub.asked("HEAD ") == 1

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_a_failure_that_passes_is_not_told(self, hub, repo, shell, status):
        hub.fault("GET /api/models/", lambda handler: handler.fail(status, "oops"))

        assert pushed(shell)["created"]

    def test_a_failure_that_stays_is_told(self, hub, repo, shell):
        hub.fault("GET /api/models/", lambda handler: handler.fail(500, "oops"), times=99)

        shell.refused("push", PLACE, "team/hub", code=7, named="fails with 500")

    def test_a_download_that_breaks_off_goes_on(self, hub, repo, shell, adapter):
        data = adapter["adapter_model.safetensors"]

        def half(handler):
            handler.answer(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
            handler.close_connection = True

        hub.fault("GET /cdn/", half)

        assert pushed(shell)["created"]

    @pytest.mark.parametrize(
        "body", [b"<html>", b"[]", b"{}", b'{"id": "x", "sha": "../../x"}', b'{"id": "x", "sha": 7}', b"null"]
    )
    def test_an_answer_that_cannot_be_read_is_told(self, hub, repo, shell, body):
        hub.fault("GET /api/models/", lambda handler: handler.answer(200, body), times=9)

        shell.refused("push", PLACE, "team/hub", code=7, named=PLACE)

        assert hub.asked("tree") == 0

    def test_another_commit_than_the_one_asked_for(self, hub, repo, shell, adapter):
        commit, other = repo.refs["main"], repo.commit({**adapter, "README.md": b"x"}, "dev")
        hub.fault("GET /api/models/", lambda handler: handler.say({"id": REPO, "sha": other}))

        shell.refused("push", f"{PLACE}@{commit}", "team/hub", code=7, named=f"another commit, {other}")

    def test_a_hub_that_is_away(self, shell, hub, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

        shell.refused("push", PLACE, "team/hub", code=7, named="the Hub at 127.0.0.1 cannot be reached")

    def test_a_hub_that_never_answers(self, hub, repo, shell, monkeypatch):
        monkeypatch.setattr("registry.hub.client._SECONDS", {"connect": 1, "read": 0.1, "write": 1, "pool": 1})
        hub.fault("GET /api/models/", lambda handler: handler.server.release.wait(20), times=9)

        shell.refused("push", PLACE, "team/hub", code=7, named="Timeout")


class TestHostileListings:
    def listed(self, hub, adapter, **changes):
        """What the listing says of the weights is changed."""
        data = adapter["adapter_model.safetensors"]
        entry = {"type": "file", "path": "adapter_model.safetensors", "oid": git_sha1(data), "size": len(data)}
        entries = [{**entry, **changes}, {**entry, "path": "adapter_config.json"}]
        hub.fault("GET /api/models/.*/tree/", lambda handler: handler.say(entries), times=9)

    @pytest.mark.parametrize(
        "changes",
        [
            {"size": -1},
            {"size": "12"},
            {"size": True},
            {"oid": "../../x"},
            {"oid": "A" * 40},
            {"lfs": {"oid": "0" * 63, "size": 1, "pointerSize": 1}},
            {"lfs": {"oid": None, "size": 1, "pointerSize": 1}},
            {"lfs": []},
            {"path": 7},
        ],
    )
    def test_without_a_usable_size_hash_or_path(self, hub, repo, shell, adapter, changes):
        self.listed(hub, adapter, **changes)

        shell.refused("push", PLACE, "team/hub", code=7, named="Hub")

    @pytest.mark.parametrize(
        "path",
        [
            "../up.txt",
            "/etc/passwd",
            "a/../../b",
            "a//b",
            "a\\b",
            "C:\\x",
            "nul.txt",
            "x\0y",
            "\u202egnp",
            "aux",
            "a.",
            "x" * 300,
        ],
    )
    def test_with_names_that_are_no_portable_paths(self, hub, repo, shell, adapter, path):
        data = b"hostile"
        entries = [
            {"type": "file", "path": name, "oid": git_sha1(body), "size": len(body)}
            for name, body in {**adapter, path: data}.items()
        ]
        hub.fault("GET /api/models/.*/tree/", lambda handler: handler.say(entries), times=9)

        shell.refused("push", PLACE, "team/hub", "--include", "**", code=2, named="the name")

        assert hub.asked("resolve") == 0

    def test_with_names_that_differ_only_in_case(self, hub, shell, adapter):
        hub.add(REPO, {**adapter, "tokenizer.json": b"1", "tokenizer.JSON": b"2"})

        shell.refused("push", PLACE, "team/hub", code=2, named="cannot lie side by side")

        assert hub.asked("resolve") == 0

    def test_with_files_of_another_folder(self, hub, repo, shell, adapter):
        self.listed(hub, adapter, path="other/adapter_model.safetensors")

        shell.refused("push", f"{PLACE}/sql", "team/hub", code=7, named="not in it")

    def test_without_an_end(self, hub, repo, shell, monkeypatch):
        monkeypatch.setattr(listing, "MOST_FILES", 50)
        entries = [{"type": "file", "path": f"{number}", "oid": "0" * 40, "size": 1} for number in range(20)]
        more = f'<{hub.url}/api/models/{REPO}/tree/x>; rel="next"'
        hub.fault("GET /api/models/.*/tree/", lambda handler: handler.say(entries, {"Link": more}), times=99)

        shell.refused("push", PLACE, "team/hub", code=7, named="more than 50 files")

        assert hub.asked("tree") == 3

    @pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
    def test_with_headers_that_lead_out_of_the_cache(self, hub, repo, shell, tmp_path, header):
        def evil(handler):
            known = {"ETag": f'"{"0" * 40}"', "X-Repo-Commit": repo.refs["main"]}
            handler.answer(200, b"evil", {**known, header: '"../../../../evil"'})

        hub.fault("resolve/", evil, times=99)

        shell.refused("push", PLACE, "team/hub", code=7, named=header)

        assert not list(tmp_path.rglob("*evil*"))


class TestTheCache:
    def pointer(self, tmp_path, repo, name="adapter_config.json"):
        place = tmp_path / "cache" / "models--team--sql-lora" / "snapshots" / repo.refs["main"] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        return place

    def test_its_own_links_are_followed(self, repo, shell, tmp_path):
        pushed(shell)

        assert self.pointer(tmp_path, repo).parent.joinpath("README.md").is_symlink()

    def test_a_link_out_of_it_is_refused(self, repo, shell, tmp_path):
        secret = tmp_path / "secret.json"
        secret.write_text('{"password": 1}')
        self.pointer(tmp_path, repo).symlink_to(secret)

        shell.refused("push", PLACE, "team/hub", code=2, named="leads out of the cache")

    def test_a_pipe_in_it_is_not_waited_for(self, repo, shell, tmp_path):
        os.mkfifo(self.pointer(tmp_path, repo))

        shell.refused("push", PLACE, "team/hub", code=2, named="leads out of the cache")


class TestSecrets:
    def test_no_token_and_no_signature_is_ever_shown(self, hub, repo, shell, adapter):
        """Neither with a server that echoes them, nor in a traceback."""
        echo = f"token {TOKEN} at http://storage/x?signature=s3cr3t"
        shown = []
        for pattern in ("GET /api/models/team/sql-lora$", "tree/", "HEAD ", "GET /cdn/", "GET .*resolve/"):
            for status in (400, 403):
                hub.faults.clear()
                hub.fault(pattern, lambda handler, status=status: handler.fail(status, echo), times=9)
                code, out, err = shell("push", PLACE, f"team/x{status}", "--debug")
                shown.append(out + err)
                assert code in (0, 4, 7), (pattern, status, err)

        assert len(shown) == 10
        assert not [text for text in shown if TOKEN in text or "s3cr3t" in text]

    def test_in_a_process_of_its_own_the_librarys_settings_count(self, hub, adapter, monkeypatch, tmp_path):
        """HF_ENDPOINT, HF_TOKEN and HF_HOME from the environment, nothing patched."""
        hub.add(REPO, adapter, private=True)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "registry"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        command = [sys.executable, "-m", "registry", "push", PLACE, "team/hub"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pushed  team/hub@1\n")
        assert len(list((tmp_path / "hf" / "hub").glob("models--team--sql-lora/blobs/*"))) == 3


def test_the_library_is_not_imported_until_it_is_needed():
    code = "import sys, registry.api, registry.cli.verbs.pull, registry.cli.verbs.bundles; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
