"""Plan: the room for stored versions, and who is left out of it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import delete

from engine.errors import OptionError
from registry.errors import NotFoundError, UsageError
from registry.models import Document
from tests.registries import make_adapter, make_base


def push(registry, folder, name, *, seed=0, rank=2, aliases=(), base=None, **config):
    return registry.push(make_adapter(folder, seed, rank=rank, **config), name, aliases=aliases, base=base)


@pytest.fixture
def fleet(prepared):
    return prepared(launch)


def launch(registry, tmp_path):
    """team/base with its q (6, 4) and up (8, 4), table (10, 4); adapters of rank 2 and 12."""
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    push(registry, tmp_path / "a", "team/a", aliases=["prod"])
    push(registry, tmp_path / "b", "team/b", seed=1, rank=12)


def test_two_versions_are_planned_from_what_the_catalog_keeps(fleet):
    """A slot: q 10, up 12, both tables 14, at rank 16 in 2 bytes. Served: 22 numbers a rank."""
    found = fleet.plan("team/a", "team/b", for_engine="vllm@0.33.0")

    assert (found.engine, found.base, found.status, found.asked) == ("vllm", "team/base", "pass", 2)
    assert (found.capacity.max_lora_rank, found.capacity.max_loras) == (16, 2)
    assert [(room.ref, room.rank, room.stored_bytes, room.served_bytes) for room in found.capacity.adapters] == [
        ("team/a@1", 2, 22 * 2 * 4, 22 * 2 * 2),
        ("team/b@1", 12, 22 * 12 * 4, 22 * 12 * 2),
    ]
    assert [(one.ref, one.without) for one in found.capacity.forced_by] == [("team/b@1", 8)]


def test_a_slot_counts_the_layers_of_the_known_base(fleet, tmp_path):
    """up (8, 4) has 12 numbers a rank; both tables of vLLM 14 each, and its q 10."""
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    tensors = {f"{name}A.weight": np.ones((3, 4), np.float32), f"{name}B.weight": np.ones((8, 3), np.float32)}
    push(fleet, tmp_path / "u", "team/up", rank=3, tensors=tensors, target_modules=["up_proj"])
    vllm, sglang = (fleet.plan("team/up", for_engine=engine).capacity for engine in ("vllm", "sglang"))

    assert (vllm.slot_bytes, vllm.targets_slot_bytes, vllm.exact) == ((10 + 12 + 14 + 14) * 8 * 2, 12 * 8 * 2, True)
    assert (sglang.slot_bytes, sglang.max_loras, sglang.exact) == (12 * 3 * 2, 2, True)


def test_no_file_is_read(fleet):
    """The blobs may be gone: what the rules and the arithmetic need stands in the catalog."""
    for blob in sorted(fleet.settings.home.glob("blobs/sha256/*/*")):
        blob.unlink()

    assert fleet.plan("team/a", "team/b", for_engine="vllm").capacity.max_lora_rank == 16


def test_a_version_of_a_release_that_kept_less_is_pulled_and_read(fleet):
    gone = delete(Document).where(Document.kind == "facts")
    fleet._handle.database.write(lambda session: session.execute(gone))

    assert fleet.plan("team/a", "team/b", for_engine="vllm").capacity.max_lora_rank == 16


def test_without_references_the_newest_of_the_base_are_meant(fleet, tmp_path):
    push(fleet, tmp_path / "a2", "team/a", seed=5, rank=20)
    push(fleet, tmp_path / "c", "team/c", seed=6, base_model_name_or_path="other/base")

    found = fleet.plan(for_engine="vllm", base="team/base")
    assert [room.ref for room in found.capacity.adapters] == ["team/b@1", "team/a@2"]
    assert [room.ref for room in fleet.plan(for_engine="vllm", alias="prod").capacity.adapters] == ["team/a@1"]


def test_a_base_given_by_its_path_means_the_same_versions(fleet, tmp_path):
    assert fleet.plan(for_engine="vllm", base=str(tmp_path / "base")).asked == 2


def test_an_adapter_the_engine_refuses_is_named_and_left_out(fleet, tmp_path):
    """DoRA of rank 64 would force the rank up, and is never loaded."""
    push(fleet, tmp_path / "d", "team/d", seed=7, rank=64, use_dora=True)
    found = fleet.plan("team/a", "team/d", for_engine="vllm")

    assert found.status == "fail"
    assert [(one.rule, one.target) for one in found.findings if one.severity == "error"] == [("vllm-dora", "team/d@1")]
    assert (found.capacity.max_lora_rank, found.asked, len(found.capacity.adapters)) == (8, 2, 1)


def test_an_adapter_that_does_not_fit_the_base_is_left_out(fleet, tmp_path):
    other = make_base(tmp_path / "smaller")
    save_file({"model.layers.0.mlp.up_proj.weight": np.zeros((8, 4), np.float32)}, other / "model.safetensors")
    found = fleet.plan("team/a", for_engine="vllm", base=str(other))

    assert "base-module-absent" in {one.rule for one in found.findings}
    assert (found.status, found.capacity, found.command) == ("fail", None, None)


def test_a_rank_that_was_given_caps_the_plan(fleet):
    found = fleet.plan("team/a", "team/b", for_engine="vllm:max_lora_rank=8")

    assert [one.rule for one in found.findings if one.severity == "error"] == ["vllm-rank"]
    assert found.capacity.max_lora_rank == 8


def test_a_rank_that_the_engine_cannot_be_started_with_is_refused(fleet):
    with pytest.raises(UsageError, match=r"max_lora_rank=24: vllm can be started with one of 1, 8, 16"):
        fleet.plan("team/a", for_engine="vllm:max_lora_rank=24")


def test_a_release_nobody_read_is_inconclusive(fleet):
    found = fleet.plan("team/a", for_engine="vllm@99.0")

    assert (found.status, found.capacity.max_lora_rank) == ("inconclusive", 8)


def test_adapters_of_several_bases_are_refused_unless_one_is_given(fleet, tmp_path):
    push(fleet, tmp_path / "c", "team/c", seed=6, base_model_name_or_path="other/base")
    with pytest.raises(UsageError, match=r"other/base, team/base; one server serves one"):
        fleet.plan("team/a", "team/c", for_engine="vllm")

    assert fleet.plan("team/a", "team/c", for_engine="vllm", base="team/base").asked == 2


def test_names_of_one_base_are_one_base(fleet, tmp_path):
    fleet.add_base(tmp_path / "base", names=["hub/base"])
    push(fleet, tmp_path / "c", "team/c", seed=6, base_model_name_or_path="hub/base")

    assert fleet.plan("team/a", "team/c", for_engine="vllm").capacity.exact


def test_an_unknown_base_gives_the_least_and_says_so(registry, tmp_path):
    push(registry, tmp_path / "a", "team/a", base_model_name_or_path="nobody/knows")
    found = registry.plan("team/a", for_engine="vllm")

    assert (found.capacity.slot_bytes, found.capacity.exact) == (22 * 8 * 2, False)
    assert any("adapters base add" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"for_engine": "nothing"}, OptionError, "nothing"),
        ({"for_engine": "peft"}, UsageError, "expected one of vllm, sglang, own"),
        ({"for_engine": "vllm", "memory": "1"}, OptionError, "expected at least"),
        ({"for_engine": "vllm", "memory": "much"}, UsageError, "much"),
        ({"for_engine": "vllm", "base": "nobody/knows"}, NotFoundError, "nobody/knows"),
    ],
)
def test_what_cannot_be_planned_is_said(fleet, options, error, says):
    with pytest.raises(error, match=says):
        fleet.plan("team/a", **options)


def test_nothing_to_plan_for_is_said(registry):
    with pytest.raises(UsageError, match="no version is meant"):
        registry.plan(for_engine="vllm", alias="prod")


def test_one_version_asked_for_twice_counts_once(fleet):
    assert fleet.plan("team/a", "team/a@1", "team/a@prod", for_engine="vllm").asked == 1


def test_two_versions_of_an_adapter_are_served_by_reference(fleet, tmp_path):
    push(fleet, tmp_path / "a2", "team/a", seed=5, rank=4)
    command = fleet.plan("team/a@1", "team/a@2", "team/b", for_engine="vllm").command

    assert "team/a@1=" in command.replace("'", "")
    assert " team/b=" in command


def test_a_base_of_32_bits_is_served_in_16(fleet):
    assert fleet.plan("team/a", for_engine="vllm").capacity.dtype == "bfloat16"
    assert fleet.plan("team/a", for_engine="vllm", dtype="float32").capacity.dtype == "float32"
