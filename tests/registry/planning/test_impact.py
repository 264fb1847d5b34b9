"""Impact: what changes when a base or an engine is replaced, and what hangs on a base."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import OptionError
from registry.errors import NotFoundError, UsageError
from tests.registries import BASE_TENSORS, make_adapter, make_base

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"


def only(module, inputs, outputs, rank=2):
    """Factors of one module."""
    return {
        f"base_model.model.{module}.lora_A.weight": np.ones((rank, inputs), np.float32),
        f"base_model.model.{module}.lora_B.weight": np.ones((outputs, rank), np.float32),
    }


def other_base(folder, **shapes):
    """The base with other shapes by path's last module; `None` leaves the tensor out."""
    make_base(folder)
    kept = {}
    for path, shape in BASE_TENSORS.items():
        shape = shapes.get(path.split(".")[-2], shape)  # noqa: PLW2901 (the one that counts)
        if shape is not None:
            kept[path] = np.zeros(shape, np.float32)
    save_file(kept, folder / "model.safetensors")
    return folder


@pytest.fixture
def fleet(prepared):
    return prepared(launch)


def launch(registry, tmp_path):
    """Three adapters on team/base: q and up, q alone, up alone; and one on another base."""
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "both"), "team/both", aliases=["prod"])
    registry.push(make_adapter(tmp_path / "q", tensors=only(Q, 4, 6), target_modules=["q_proj"]), "team/q")
    registry.push(make_adapter(tmp_path / "up", tensors=only(UP, 4, 8), target_modules=["up_proj"]), "team/up")
    registry.push(make_adapter(tmp_path / "far", 9, base_model_name_or_path="far/base"), "team/far")


def test_adapters_of_a_changed_layer_break_and_the_others_do_not(fleet, tmp_path):
    """The new base's q_proj gives 7 outputs instead of 6."""
    fleet.add_base(other_base(tmp_path / "new", q_proj=(7, 4)), names=["team/new"])
    found = fleet.impact(base="team/base", to="team/new")

    assert (found.relation, found.looked_at, found.breaks) == ("other", 3, 2)
    assert [(one.ref, one.aliases, one.before, one.after) for one in found.changes] == [
        ("team/both@1", ("prod",), "fits", "breaks"),
        ("team/q@1", (), "fits", "breaks"),
    ]
    assert [(one.rule, one.where, one.target) for one in found.changes[1].new] == [
        ("base-shape", f"base_model.model.{Q}.lora_A.weight", "team/q@1")
    ]


def test_a_base_may_be_given_by_its_path(fleet, tmp_path):
    new = other_base(tmp_path / "new", up_proj=None)
    found = fleet.impact(base=str(tmp_path / "base"), to=str(new))

    assert [one.ref for one in found.changes if one.breaks] == ["team/both@1", "team/up@1"]
    assert {one.rule for change in found.changes for one in change.new} == {"base-module-absent"}


def test_what_was_wrong_before_is_no_difference(fleet, tmp_path):
    """Neither base has a q_proj that fits; the later one has lost up_proj too, which is new and breaks nothing more."""
    fleet.add_base(other_base(tmp_path / "old", q_proj=(9, 4)), names=["wrong"])
    fleet.push(make_adapter(tmp_path / "w", 3), "team/w", base="wrong", allow=["base-shape"])
    alike = fleet.impact(base="wrong", to=str(other_base(tmp_path / "alike", q_proj=(9, 4), norm=(5,))))
    worse = fleet.impact(base="wrong", to=str(other_base(tmp_path / "worse", q_proj=(9, 4), up_proj=None)))

    assert (alike.looked_at, alike.changes) == (1, ())
    assert [(one.before, one.after, one.breaks, [new.rule for new in one.new]) for one in worse.changes] == [
        ("breaks", "breaks", False, ["base-module-absent"])
    ]


def test_an_adapter_that_fits_afterwards_alone_is_told_and_does_not_break(fleet, tmp_path):
    fleet.add_base(other_base(tmp_path / "old", q_proj=(9, 4)), names=["wrong"])
    fleet.push(make_adapter(tmp_path / "w", 3), "team/w", base="wrong", allow=["base-shape"])
    found = fleet.impact(base="wrong", to="team/base")

    assert [(one.ref, one.before, one.after, one.breaks) for one in found.changes] == [
        ("team/w@1", "breaks", "fits", False)
    ]
    assert [one.rule for one in found.changes[0].gone] == ["base-shape"]


def test_the_same_content_changes_nothing_and_says_nothing(fleet, tmp_path):
    found = fleet.impact(base="team/base", to=str(tmp_path / "base"))

    assert (found.relation, found.breaks, found.notes) == ("same", 0, ())


def test_equal_shapes_with_other_weights_are_told_apart(fleet, tmp_path):
    found = fleet.impact(base="team/base", to=str(make_base(tmp_path / "twin", seed=5)))

    assert (found.relation, found.breaks) == ("layout", 0)
    assert "computes another function" in found.notes[0]


def test_old_versions_count_where_an_alias_names_them(fleet, tmp_path):
    fleet.push(make_adapter(tmp_path / "v2", tensors=only(UP, 4, 8), target_modules=["up_proj"]), "team/both")
    new = other_base(tmp_path / "new", q_proj=(7, 4))

    assert [one.ref for one in fleet.impact(base="team/base", to=str(new)).changes] == ["team/both@1", "team/q@1"]
    fleet.remove_alias("team/both", "prod")
    assert [one.ref for one in fleet.impact(base="team/base", to=str(new)).changes] == ["team/q@1"]


def test_deleted_versions_do_not_count(fleet, tmp_path):
    fleet.remove("team/q")

    assert fleet.impact(base="team/base", to=str(other_base(tmp_path / "n", q_proj=(7, 4)))).looked_at == 2


def test_two_releases_of_an_engine_are_told_apart(fleet, tmp_path):
    """vLLM passes over activated LoRA before 0.32 and refuses it from there; patterns it honours from there."""
    pattern = make_adapter(tmp_path / "p", 4, alpha_pattern={"q_proj": 9})
    fleet.push(pattern, "team/p")
    fleet.push(make_adapter(tmp_path / "act", 5, alora_invocation_tokens=[1, 2]), "team/act")
    up = fleet.impact(for_engine="vllm@0.31.0", to="vllm@0.33.0")
    down = fleet.impact(for_engine="vllm@0.33.0", to="vllm@0.31.0")

    assert up.looked_at == 6
    assert [(one.ref, one.before, one.after, one.breaks) for one in up.changes] == [
        ("team/p@1", "differs", "loads", False),
        ("team/act@1", "differs", "refuses", True),
    ]
    assert [(one.ref, one.before, one.after, one.breaks) for one in down.changes] == [
        ("team/p@1", "loads", "differs", True),
        ("team/act@1", "refuses", "differs", True),
    ]


def test_limits_are_part_of_an_engine(fleet, tmp_path):
    fleet.push(make_adapter(tmp_path / "r", 6, rank=12), "team/r")
    found = fleet.impact(for_engine="vllm:max_lora_rank=16", to="vllm:max_lora_rank=8")

    assert [(one.ref, [new.rule for new in one.new]) for one in found.changes] == [("team/r@1", ["vllm-rank"])]


def test_a_base_narrows_the_question_about_engines(fleet):
    assert fleet.impact(for_engine="vllm@0.31.0", to="vllm@0.33.0", base="team/base").looked_at == 3


def test_a_release_nobody_read_is_unknown_and_breaks_nothing(fleet):
    found = fleet.impact(for_engine="vllm@0.33.0", to="vllm@99.0")

    assert (found.breaks, found.unknown, found.looked_at) == (0, 4, 4)
    assert {one.after for one in found.changes} == {"inconclusive"}


def test_no_file_is_read(fleet, tmp_path):
    for blob in sorted(fleet.settings.home.glob("blobs/sha256/*/*")):
        blob.unlink()

    assert fleet.impact(base="team/base", to=str(other_base(tmp_path / "n", q_proj=(7, 4)))).breaks == 2
    assert fleet.impact(for_engine="vllm@0.31.0", to="vllm@0.33.0").looked_at == 4


def test_what_hangs_on_a_base(fleet, tmp_path):
    """Versions of it at any age, what was made from them under another base, aliases, and the newest check results."""
    fleet.push(make_adapter(tmp_path / "v2", 7), "team/q")
    child = make_adapter(tmp_path / "child", 8, base_model_name_or_path="moved/base")
    fleet.push(child, "team/child", parents=["team/q@1", "team/up"], relation="merged_from", aliases=["live"])
    fleet.push(make_adapter(tmp_path / "grand", 11, base_model_name_or_path="x"), "team/grand", parents=["team/child"])
    found = fleet.impact(base="team/base")

    assert [(one.ref, one.how, one.newest) for one in found.versions] == [
        ("team/both@1", "base", True),
        ("team/child@1", "lineage", True),
        ("team/grand@1", "lineage", True),
        ("team/q@1", "base", False),
        ("team/q@2", "base", True),
        ("team/up@1", "base", True),
    ]
    assert (found.adapters, found.aliases, found.merges) == (5, 2, ("team/child@1",))
    assert found.versions[1].merged_from == ("team/q@1", "team/up@1")
    assert sum(found.checks["checkin"].values()) == 6


def test_a_deleted_version_is_not_listed_and_hides_nothing_below_it(fleet, tmp_path):
    child = make_adapter(tmp_path / "child", 8, base_model_name_or_path="moved/base")
    fleet.push(child, "team/child", parents=["team/q"])
    fleet.remove("team/q")

    refs = [one.ref for one in fleet.impact(base="team/base").versions]
    assert refs == ["team/both@1", "team/child@1", "team/up@1"]


def test_versions_that_only_name_a_base_hang_on_it(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a", base_model_name_or_path="never/added"), "team/a")

    assert [one.ref for one in registry.impact(base="never/added").versions] == ["team/a@1"]


def test_a_base_nobody_knows_or_names_is_not_found(fleet):
    with pytest.raises(NotFoundError, match="nobody/knows"):
        fleet.impact(base="nobody/knows")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, UsageError),
        ({"to": "x"}, UsageError),
        ({"for_engine": "vllm"}, UsageError),
        ({"for_engine": "vllm", "to": "nothing"}, OptionError),
        ({"base": "team/base", "to": "nobody/knows"}, NotFoundError),
    ],
)
def test_half_questions_are_refused(fleet, options, error):
    with pytest.raises(error):
        fleet.impact(**options)


def test_nothing_changes_in_the_catalog(fleet, tmp_path):
    before = json.dumps([row.ref for row in fleet.list(limit=0)])
    fleet.impact(base="team/base", to=str(make_base(tmp_path / "twin", seed=5)))

    assert json.dumps([row.ref for row in fleet.list(limit=0)]) == before
    assert [info.names for info in fleet.bases()][1:] == []
