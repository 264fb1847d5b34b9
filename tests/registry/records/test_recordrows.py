"""What the record of a version says after each change: read from the store, as a rebuild would."""

import json

import pytest

from registry.errors import ConflictError
from tests.registries import make_adapter, make_base


def records(registry):
    """Every record in the store as JSON, by (name, number, sequence)."""
    found = {}
    for blob in registry._handle.store.list():
        content = registry._handle.store.read_bytes(blob.digest)
        if b'"kind":"version"' in content:
            said = json.loads(content)
            found[said["name"], said["number"], said["sequence"]] = said
    return found


def edges(said):
    return [(one["ref"], one["relation"], one["weight"]) for one in said["parents"]]


@pytest.fixture
def pushed(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/a", message="first")
    registry.push(make_adapter(tmp_path / "b", seed=1), "team/b")
    return registry


def test_the_first_record_tells_what_the_files_do_not(pushed):
    said = records(pushed)["team/a", 1, 0]
    shown = pushed.show("team/a@1")

    assert said["origin"]["message"] == "first"
    assert said["origin"]["pushed_by"] == "tester"
    assert said["origin"]["created_at"] == shown.created_at.isoformat().replace("+00:00", "Z")
    assert said["summary"]["tensors_digest"] == shown.tensors_digest
    assert (said["summary"]["peft_type"], said["summary"]["rank"], said["summary"]["modules"]) == ("LORA", 2, 2)


def test_an_edge_that_an_unchanged_push_adds_is_in_the_next_record(pushed, tmp_path):
    again = pushed.push(tmp_path / "b", "team/b", parents=["team/a@1"])

    found = records(pushed)
    assert not again.created
    assert edges(found["team/b", 1, 0]) == []
    assert edges(found["team/b", 1, 1]) == [("team/a@1", "finetuned_from", None)]


def test_a_push_that_adds_no_edge_writes_no_record(pushed, tmp_path):
    pushed.push(tmp_path / "b", "team/b", tags={"k": "v"}, aliases=["prod"], metrics={"m": 1})

    assert sorted(records(pushed)) == [("team/a", 1, 0), ("team/b", 1, 0)]


def test_the_same_edge_again_writes_no_record(pushed, tmp_path):
    for _ in range(3):
        pushed.push(tmp_path / "b", "team/b", parents=["team/a@1"])

    assert sorted(records(pushed)) == [("team/a", 1, 0), ("team/b", 1, 0), ("team/b", 1, 1)]


def test_an_edge_that_is_refused_leaves_no_record(pushed, tmp_path):
    pushed.push(tmp_path / "b", "team/b", parents=["team/a@1"])

    with pytest.raises(ConflictError, match="circle"):
        pushed.push(tmp_path / "a", "team/a", parents=["team/b@1"])

    assert ("team/a", 1, 1) not in records(pushed)


def test_deleting_and_bringing_back_are_told(pushed):
    pushed.remove("team/a@1")
    pushed.undelete("team/a@1")
    found = records(pushed)

    assert [found["team/a", 1, n]["origin"]["deleted_at"] is None for n in (0, 1, 2)] == [True, False, True]


def test_a_push_that_brings_a_version_back_tells_it(pushed, tmp_path):
    pushed.remove("team/a@1")
    pushed.push(tmp_path / "a", "team/a")

    assert records(pushed)["team/a", 1, 2]["origin"]["deleted_at"] is None


def test_a_base_that_becomes_known_later_is_told_with_all_its_facts(pushed, tmp_path):
    """The push names the base that the config names too, after `base add`."""
    pushed.add_base(make_base(tmp_path / "base"), names=["team/base"])
    pushed.push(tmp_path / "b", "team/b")
    said = records(pushed)["team/b", 1, 1]["base"]
    facts = json.loads(pushed._handle.store.read_bytes(said["facts"]))

    assert said["name"] == "team/base"
    assert said["fingerprint"] == facts["fingerprint"] == pushed.base("team/base").fingerprint
    assert facts["parameters"]["layers.0.self_attn.q_proj.weight"] == [6, 4]
    assert facts["config"] == {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def test_versions_of_one_base_share_its_facts(registry, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    for seed in (1, 2):
        registry.push(make_adapter(tmp_path / str(seed), seed=seed), "team/a")

    assert len({said["base"]["facts"] for said in records(registry).values()}) == 1
    assert registry.fsck().findings == ()


def test_a_merge_keeps_its_report_and_spectra(pushed):
    merged = pushed.merge(["team/a", "team/b"], combination="svd", rank=2, into="team/ab")
    said = records(pushed)["team/ab", 1, 0]
    kept = json.loads(pushed._handle.store.read_bytes(said["report"]))
    shown = pushed.show(merged.ref)

    assert kept["report"] == shown.report
    assert kept["spectra"] == {module["name"]: list(module["spectrum"]) for module in shown.modules}
    assert edges(said) == [("team/a@1", "merged_from", 0.5), ("team/b@1", "merged_from", 0.5)]
    assert said["recipe"]["method"] == "svd"


def test_records_before_the_newest_stay_for_catalogs_restored_from_a_backup(pushed, tmp_path):
    pushed.push(tmp_path / "b", "team/b", parents=["team/a@1"])
    pushed.gc(grace="0")

    assert sorted(records(pushed)) == [("team/a", 1, 0), ("team/b", 1, 0), ("team/b", 1, 1)]
    assert pushed.fsck().findings == ()
