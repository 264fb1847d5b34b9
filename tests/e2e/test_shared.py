"""The same story through the command line on every database with every store."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.buckets import make_bucket, store_url
from tests.registries import factors, make_adapter


@pytest.fixture
def told(bare, database_url, any_store_url, monkeypatch):
    """A shell on an empty registry of each kind; its output as JSON."""
    if not database_url.startswith("sqlite"):
        monkeypatch.setenv("ADAPTERS_DATABASE_URL", database_url)
    if any_store_url is not None:
        monkeypatch.setenv("ADAPTERS_STORE_URL", any_store_url)
    return lambda *arguments: json.loads(bare.say(*arguments, "--format", "json"))


def test_push_pull_verify_merge_rm_and_gc(told, bare, work):
    status = told("init")
    one = told("push", "./one", "team/one", "--alias", "prod")
    again = told("push", "./one", "team/one")
    two = told("push", "./two", "team/two")

    assert (one["version"], one["created"], again["version"], again["created"]) == (1, True, 1, False)
    assert two["digest"] != one["digest"]
    assert told("verify", "team/one")["files"] == 2

    told("pull", "team/one@prod", "--to", "./mine")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (work / "mine" / name).read_bytes() == (work / "one" / name).read_bytes()

    merged = told("merge", "team/one", "team/two", "--combination", "linear", "--into", "team/both")
    told("pull", "team/both", "--to", "./both")
    assert_is_half_of_each(work / "both")
    edges = told("lineage", merged["ref"])["edges"]
    assert len([edge for edge in edges if edge["relation"] == "merged_from"]) == 2

    code, _, err = bare("rm", "team/one@1")
    assert (code, "prod" in err) == (5, True)
    told("alias", "rm", "team/one", "prod")
    told("rm", "team/one@1")
    assert told("gc", "--grace", "0")["blobs"] == 1  # its weights; its config is the other's too
    assert told("fsck")["findings"] == []
    assert told("pull", "team/two")["digest"] == two["digest"]
    assert bare("undelete", "team/one@1")[0] == 4

    back = told("push", "./one", "team/one")
    assert (back["version"], told("verify", "team/one")["files"]) == (1, 2)
    assert {check["status"] for check in told("doctor")["checks"] if check["name"].startswith("store")} == {"ok"}
    assert status["store"] == told("doctor")["store"]


def assert_is_half_of_each(folder):
    """ΔW of the merge is the mean of the parents' ΔW; alpha is twice the rank in the parents, equal to it after."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in {name.rsplit(".lora_", 1)[0] for name in tensors}:
        a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        expected = sum(
            2.0 * factors(seed)[f"{name}.lora_B.weight"] @ factors(seed)[f"{name}.lora_A.weight"] for seed in (1, 2)
        )
        np.testing.assert_allclose(b @ a, expected / 2, rtol=1e-4, atol=1e-5)


@pytest.fixture
def on_s3(bare, s3_url, monkeypatch):
    monkeypatch.setenv("ADAPTERS_STORE_URL", s3_url)
    return bare


def test_a_bucket_of_another_registry_is_refused_and_left_alone(on_s3, tmp_path, monkeypatch):
    on_s3.say("push", "./one", "team/one")
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "other"))

    on_s3.refused("gc", "--grace", "0", code=5, named="nothing was ever written through")
    for command in (("push", "./two", "team/two"), ("init",)):
        on_s3.refused(*command, code=5, named="belongs to registry")
    code, out, _ = on_s3("doctor")
    assert (code, "belongs to registry" in out) == (7, True)

    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    assert "team/one" in on_s3.say("verify", "team/one")


def test_a_missing_bucket_is_named_at_init(bare, s3_server, s3_url):
    url = store_url(s3_server, "no-such-bucket")

    bare.refused("init", "--store-url", url, code=7, named="there is no bucket 'no-such-bucket'")


def test_blobs_of_a_bucket_need_no_folder_in_the_home(on_s3, tmp_path):
    on_s3.say("push", "./one", "team/one")

    assert not (tmp_path / "home" / "blobs").exists()
    assert list((tmp_path / "home" / "staging").iterdir()) == []


def test_a_pulled_version_is_there_without_the_store(on_s3, monkeypatch, s3_server):
    """P8: by its digest, with the bucket gone."""
    on_s3.say("push", "./one", "team/one")
    digest = json.loads(on_s3.say("pull", "team/one", "--format", "json"))["digest"]
    monkeypatch.setenv("ADAPTERS_STORE_URL", store_url(s3_server, "no-such-bucket"))

    assert json.loads(on_s3.say("pull", f"team/one@{digest}", "--format", "json"))["digest"] == digest


def test_settings_files_may_name_the_bucket(bare, s3_url, work, tmp_path):
    """Beside the home that the environment names; another home would leave the file's bucket out."""
    (work / "adapters.toml").write_text(f'home = "{tmp_path / "home"}"\nstore_url = "{s3_url}"\n')

    assert "s3://" in bare.say("init")


def test_looking_asks_nothing_of_the_bucket(bare, monkeypatch):
    """No server is there, and list is quick all the same."""
    monkeypatch.setenv("ADAPTERS_STORE_URL", "s3://bucket/team?endpoint=http://127.0.0.1:9")
    begun = time.monotonic()

    assert json.loads(bare.say("list", "--format", "json")) == []
    assert time.monotonic() - begun < 5


def test_many_registries_share_a_bucket_by_prefix(bare, s3_server, s3_url, monkeypatch, tmp_path):
    bucket = make_bucket(s3_server)
    for team in ("a", "b"):
        monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / team))
        monkeypatch.setenv("ADAPTERS_STORE_URL", store_url(s3_server, bucket, team))
        make_adapter(tmp_path / "work" / team, seed=ord(team))
        bare.say("push", f"./{team}", f"team/{team}")

    for team in ("a", "b"):
        monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / team))
        monkeypatch.setenv("ADAPTERS_STORE_URL", store_url(s3_server, bucket, team))
        assert json.loads(bare.say("fsck", "--format", "json"))["findings"] == []
        assert json.loads(bare.say("gc", "--grace", "0", "--format", "json"))["blobs"] == 0


class TestSecrets:
    """A canary in every credential and in every place where one may be put by mistake is never said again."""

    CANARY = "CANARY-9f3b"

    @pytest.mark.parametrize(
        "url",
        [
            "s3://key:CANARY-9f3b@bucket/a",
            "s3://bucket/a?secret_access_key=CANARY-9f3b",
            "s3://bucket/a?endpoint=http://key:CANARY-9f3b@127.0.0.1:9",
        ],
    )
    @pytest.mark.parametrize("verb", [("init",), ("doctor",), ("list",), ("push", "./one", "team/one")])
    def test_a_secret_in_the_url_is_refused_and_not_said(self, bare, capfd, monkeypatch, url, verb):
        monkeypatch.setenv("ADAPTERS_STORE_URL", url)

        code, out, err = bare(*verb, "--debug")

        assert code == 2
        assert "credentials never stand in it" in err
        assert self.CANARY not in out + err

    @pytest.mark.parametrize(
        "verb",
        [
            ("init",),
            ("doctor",),
            ("push", "./one", "team/one"),
            ("pull", "team/sql"),
            ("verify", "team/sql"),
            ("fsck",),
        ],
    )
    def test_no_credential_is_said_whatever_fails(self, bare, s3_server, s3_url, monkeypatch, verb):
        monkeypatch.setattr("registry.store.bucket.bucket.TRIES", 1)
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, self.CANARY)
        with monkeypatch.context() as working:
            working.setenv("ADAPTERS_STORE_URL", s3_url)
            bare.say("push", "./two", "team/sql")
        urls = {
            "missing-bucket": store_url(s3_server, "no-such-bucket"),
            "no-server": store_url("http://127.0.0.1:9", "bucket"),
            "no-tls": store_url(s3_server.replace("http:", "https:"), "bucket"),
        }
        for url in urls.values():
            monkeypatch.setenv("ADAPTERS_STORE_URL", url)

            code, out, err = bare(*verb, "--debug")

            assert code == 7, (url, out, err)
            assert self.CANARY not in out + err, url

    def test_no_credential_is_said_where_all_is_well(self, bare, s3_url, monkeypatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.CANARY)
        monkeypatch.setenv("ADAPTERS_STORE_URL", s3_url)

        for verb in (("init",), ("push", "./one", "team/one"), ("doctor",), ("pull", "team/one")):
            code, out, err = bare(*verb, "--debug")
            assert (code, self.CANARY in out + err) == (0, False)
