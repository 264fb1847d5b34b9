"""Push through the API, on both databases: what it stores, refuses, finds again and leaves behind."""

import hashlib
import json

import numpy as np
import pytest

from engine.errors import ConfigError, HeaderError, UnreadableError
from registry.errors import ConflictError, FindingsError, IntakeError, NotFoundError, UnavailableError, UsageError
from tests.registries import factors, make_adapter, make_base

Q_B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


def rules(findings, severity):
    return {finding.rule for finding in findings if finding.severity == severity}


def test_a_push_says_what_it_stored(registry, tmp_path):
    folder = make_adapter(tmp_path / "a")
    result = registry.push(folder, "team/sql", tags={"task": "sql"}, metrics={"acc": 0.5}, message="first")
    entries = [
        {"path": name, "sha256": f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}", "size": size}
        for name, size in ((path.name, path.stat().st_size) for path in sorted(folder.iterdir()))
    ]
    manifest = json.dumps({"schema": 1, "files": entries}, separators=(",", ":")).encode()

    assert (result.ref, result.version, result.created) == ("team/sql@1", 1, True)
    assert result.digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def test_show_gives_every_fact_of_a_push(registry, tmp_path):
    registry.push(
        make_adapter(tmp_path / "a", rank=2), "team/sql", tags={"task": "sql"}, message="first", aliases=["prod"]
    )
    detail = registry.show("team/sql@prod")
    tensors = factors(0, 2)
    # scaling is alpha / r = 4 / 2
    norms = [
        2
        * np.linalg.norm(tensors[key].astype(np.float64) @ tensors[key.replace("lora_B", "lora_A")].astype(np.float64))
        for key in tensors
        if "lora_B" in key
    ]

    assert (detail.rank, detail.peft_type, detail.base, detail.message) == (2, "LORA", "team/base", "first")
    assert (detail.aliases, dict(detail.tags), detail.pushed_by) == (("prod",), {"task": "sql"}, "tester")
    assert detail.config["lora_alpha"] == 4
    assert sorted(module["norm"] for module in detail.modules) == pytest.approx(sorted(norms), rel=1e-6)
    assert detail.norm == pytest.approx(np.hypot(*norms), rel=1e-6)
    assert [entry.path for entry in detail.files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_same_content_again_is_unchanged_and_adds_what_is_new(registry, tmp_path):
    folder = make_adapter(tmp_path / "a")
    first = registry.push(folder, "team/sql")
    registry.push(make_adapter(tmp_path / "b", seed=1), "team/sql")
    again = registry.push(folder, "team/sql", tags={"task": "sql"}, aliases=["prod"])

    assert (again.ref, again.created, again.newest, again.digest) == (first.ref, False, 2, first.digest)
    assert again.notes == ("unchanged: team/sql@1 holds this content; the newest is team/sql@2",)
    assert registry.show("team/sql@prod").tags == {"task": "sql"}


def test_the_same_content_under_another_name_is_a_version_there(registry, tmp_path):
    folder = make_adapter(tmp_path / "a")
    one, other = registry.push(folder, "team/one"), registry.push(folder, "team/other")

    assert (one.digest, one.version) == (other.digest, other.version)
    assert other.created


def test_pushing_deleted_content_brings_the_version_back(registry, tmp_path):
    folder = make_adapter(tmp_path / "a")
    registry.push(folder, "team/sql")
    registry.remove("team/sql@1")
    result = registry.push(folder, "team/sql")

    assert (result.ref, result.created) == ("team/sql@1", False)
    assert registry.show("team/sql").deleted_at is None


def test_a_trainers_output_folder_pushes_and_what_stays_out_is_listed(registry, tmp_path):
    folder = make_adapter(tmp_path / "out")
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "tokenizer.json").write_text("{}")
    make_adapter(folder / "checkpoint-7")
    result = registry.push(folder, "team/sql")

    assert result.left_out == ("checkpoint-7/", "optimizer.pt", "training_args.bin")
    assert "tokenizer.json" in [entry.path for entry in registry.show("team/sql").files]


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ({Q_B: np.full((6, 2), np.nan, np.float32)}, "value-nonfinite"),
        ({Q_B: None}, "pair-incomplete"),
        ({Q_B: np.ones((6, 3), np.float32)}, "shape-inner"),
        ({"stray.weight": np.ones(3, np.float32)}, "tensor-unmatched"),
    ],
)
def test_a_rule_that_says_error_refuses_and_changes_nothing(registry, tmp_path, damage, rule):
    tensors = {key: value for key, value in {**factors(0), **damage}.items() if value is not None}
    folder = make_adapter(tmp_path / "a", tensors=tensors)

    with pytest.raises(FindingsError) as refused:
        registry.push(folder, "team/sql")

    assert rule in rules(refused.value.findings, "error")
    with pytest.raises(NotFoundError):
        registry.show("team/sql")
    assert registry.fsck().blobs == 0


def test_allow_lets_one_rule_pass_and_the_finding_is_stored(registry, tmp_path):
    folder = make_adapter(tmp_path / "a", tensors={**factors(0), Q_B: np.full((6, 2), np.nan, np.float32)})
    registry.push(folder, "team/sql", allow=["value-nonfinite"])

    assert "value-nonfinite" in {finding["rule"] for finding in registry.show("team/sql").findings}
    assert registry.show("team/sql").norm is None


def test_allow_of_an_unknown_rule_is_bad_usage(registry, tmp_path):
    with pytest.raises(UsageError, match="no-such-rule"):
        registry.push(make_adapter(tmp_path / "a"), "team/sql", allow=["no-such-rule"])


def test_an_unknown_base_and_an_all_zero_b_are_warnings(registry, tmp_path):
    folder = make_adapter(tmp_path / "a", tensors={**factors(0), Q_B: np.zeros((6, 2), np.float32)})
    result = registry.push(folder, "team/sql")

    assert {"base-unknown", "zero-b"} & rules(result.findings, "warning") >= {"base-unknown"}
    assert any("zero" in rule for rule in rules(result.findings, "warning"))


def test_a_known_base_is_recorded_and_shapes_are_checked_against_it(registry, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "a"), "team/sql")
    wrong = {key: np.pad(value, ((0, 0), (0, 1))) if "lora_A" in key else value for key, value in factors(0).items()}

    with pytest.raises(FindingsError) as refused:
        registry.push(make_adapter(tmp_path / "b", tensors=wrong), "team/sql")

    assert "base-shape" in rules(refused.value.findings, "error")
    assert [node.kind for node in registry.lineage("team/sql").nodes] == ["version", "base"]
    assert registry.base("team/base").adapters == 1


def test_a_base_given_as_a_path_becomes_known_by_it(registry, tmp_path):
    base = make_base(tmp_path / "base")
    registry.push(make_adapter(tmp_path / "a"), "team/sql", base=str(base))

    assert registry.base(str(base)).adapters == 1


def test_a_parent_is_an_edge(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/sql")
    registry.push(make_adapter(tmp_path / "b", seed=1), "team/tuned", parents=["team/sql@1"])
    edges = registry.lineage("team/tuned", down=False).edges

    assert ("team/tuned@1", "team/sql@1", "finetuned_from") in {(e.child, e.parent, e.relation) for e in edges}


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), ConfigError),
        (lambda folder: (folder / "adapter_config.json").write_text('{"lora_layers": 16, "rank": 8}'), ConfigError),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 40), HeaderError),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), (UnreadableError, IntakeError)),
        (lambda folder: (folder / "adapter_config.json").unlink(), IntakeError),
    ],
)
def test_a_folder_that_is_no_adapter_is_named_and_nothing_is_stored(registry, tmp_path, write, error):
    folder = make_adapter(tmp_path / "a")
    write(folder)

    with pytest.raises(error) as refused:
        registry.push(folder, "team/sql")

    assert refused.value.exit_code == 2
    assert str(refused.value).startswith((f"{folder}:", f"{folder}/adapter_"))
    assert "staging" not in str(refused.value)
    assert registry.fsck().findings == ()


def test_a_refused_file_is_told_as_it_was_given(registry, tmp_path, monkeypatch):
    """By the caller's own, relative name; `path` names it too, and the copy that was read is gone."""
    make_adapter(tmp_path / "out")
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"\xff" * 40)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(HeaderError, match=r"^out/adapter_model\.safetensors: not a valid safetensors file") as refused:
        registry.push("out", "team/sql")

    assert str(refused.value.path) == "out/adapter_model.safetensors"
    assert refused.value.code in str(refused.value)


def test_a_push_leaves_no_staging_and_no_lease(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/sql")

    assert list(registry.settings.staging.iterdir()) == []
    assert registry.fsck().findings == ()


def test_a_store_that_cannot_be_written_is_unavailable(registry, tmp_path):
    registry.init()
    registry.settings.staging.parent.mkdir(parents=True, exist_ok=True)
    registry.settings.staging.write_text("in the way")

    with pytest.raises(UnavailableError, match="staging"):
        registry.push(make_adapter(tmp_path / "a"), "team/sql")


def test_a_config_with_odd_texts_is_stored_as_far_as_the_catalog_can(registry, tmp_path):
    """NUL is no text for PostgreSQL, names and types have an end."""
    folder = make_adapter(tmp_path / "a", base_model_name_or_path="team/\0base" + "x" * 2000)
    registry.push(folder, "team/sql")

    assert registry.show("team/sql").base == "team/\ufffdbase" + "x" * 1014
    assert registry.show("team/sql").config["base_model_name_or_path"] == "team/\0base" + "x" * 2000


def test_a_base_given_as_a_relative_path_is_the_base_of_that_path(registry, tmp_path, monkeypatch):
    """One base however the path was written, and the name that is kept is absolute."""
    base = make_base(tmp_path / "base")
    registry.add_base(base, names=["team/base"])
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    folder = make_adapter(tmp_path / "a")
    registry.push(folder, "team/one", base="../base")
    registry.push(folder, "team/two", base="./../base")

    assert [info.adapters for info in registry.bases()] == [2]
    assert registry.show("team/one").base == str(base)
    assert {info.ref for info in registry.list(base="../base")} == {"team/one@1", "team/two@1"}


def test_an_unknown_base_is_warned_of_by_the_name_that_was_given(registry, tmp_path):
    result = registry.push(make_adapter(tmp_path / "a"), "team/sql", base="typo")
    (warning,) = [finding for finding in result.findings if finding.rule == "base-unknown"]

    assert "'typo'" in warning.message


def test_a_message_that_is_too_long_leaves_nothing_behind(registry, tmp_path):
    with pytest.raises(UsageError, match="5000 characters"):
        registry.push(make_adapter(tmp_path / "a"), "team/sql", message="x" * 5000)

    assert list(registry._handle.store.list()) == []


def test_a_push_tried_again_with_the_name_as_parent_is_not_its_own_parent(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/sql")
    folder = make_adapter(tmp_path / "b", seed=1)
    registry.push(folder, "team/sql", parents=["team/sql"])
    again = registry.push(folder, "team/sql", parents=["team/sql"])
    edges = [(edge.child, edge.parent) for edge in registry.lineage("team/sql").edges if edge.relation != "base"]

    assert edges == [("team/sql@2", "team/sql@1")]
    assert "no edge" in again.notes[-1]


def test_a_push_for_another_base_than_its_config_names_is_a_warning(registry, tmp_path):
    """Equal layout alone is not the same base."""
    registry.add_base(make_base(tmp_path / "one", 1), names=["team/base"])
    registry.add_base(make_base(tmp_path / "two", 2), names=["team/twin"])
    result = registry.push(make_adapter(tmp_path / "a"), "team/sql", base="team/twin")
    same = registry.push(make_adapter(tmp_path / "b", 1), "team/sql", base="team/base")

    assert "base-differs-from-config" in rules(result.findings, "warning")
    assert "same layout" in next(one.message for one in result.findings if one.rule == "base-differs-from-config")
    assert "base-differs-from-config" not in rules(same.findings, "warning")


def test_an_edge_that_would_close_a_circle_is_refused(registry, tmp_path):
    first, second = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", 1)
    registry.push(first, "team/a")
    registry.push(second, "team/b", parents=["team/a"])

    with pytest.raises(ConflictError, match="circle"):
        registry.push(first, "team/a", parents=["team/b"])
    assert [edge.parent for edge in registry.lineage("team/a", down=False).edges if edge.relation != "base"] == []
