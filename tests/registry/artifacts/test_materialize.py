"""The same request gives what is there, hashed again; what was changed is not taken for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.errors import RefusedError
from registry.errors import ConflictError, CorruptError, NotFoundError, UsageError
from tests.registries import make_adapter, make_base
from tests.registry.artifacts import world


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    return world.sqlite_alone(sqlite_template, tmp_path)


def merged(registry, to, *refs, **options):
    return registry.materialize(refs or ("team/a",), kind="merged", to=to, **options)


def test_a_merged_checkpoint_holds_base_plus_update_rounded_once(registry, tmp_path):
    result = merged(registry, tmp_path / "out")

    found, wanted = load_file(tmp_path / "out" / "model.safetensors"), world.expected(tmp_path / "base", {1: 1.0})
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-7, atol=2e-7)
    for name in world.UNTOUCHED:
        assert found[name].tobytes() == wanted[name].tobytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert (result.path, result.reused, result.artifact) == (tmp_path / "out", None, 1)
    assert result.report["modules"] == 2


def test_several_adapters_count_one_nth_each_unless_weighted(registry, tmp_path):
    merged(registry, tmp_path / "half", "team/a", "team/b")
    merged(registry, tmp_path / "weighted", "team/a", "team/b", weights=[0.7, -0.3])

    for folder, weights in (("half", {1: 0.5, 2: 0.5}), ("weighted", {1: 0.7, 2: -0.3})):
        found, wanted = load_file(tmp_path / folder / "model.safetensors"), world.expected(tmp_path / "base", weights)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=4e-7, atol=4e-7)


def test_the_recipe_names_content_and_no_place(registry, tmp_path):
    result = merged(registry, tmp_path / "out", "team/a", "team/b", weights=[0.25, 1.0])

    digests = [registry.get(ref).digest for ref in ("team/a", "team/b")]
    recipe = result.recipe
    assert recipe["parents"] == [
        {"digest": digests[0], "weight": 0.25, "name": "team/a@1"},
        {"digest": digests[1], "weight": 1.0, "name": "team/b@1"},
    ]
    assert recipe["base"]["fingerprint"] == registry.base("team/base").fingerprint
    assert (recipe["kind"], recipe["rounding"], recipe["seed"], recipe["shard_size"]) == (
        "merged",
        "nearest",
        None,
        5_000_000_000,
    )
    assert set(recipe["tool"]) == {"adapter-registry", "numpy", "torch"}
    assert str(tmp_path) not in json.dumps(recipe)


def test_the_same_request_keeps_the_folder_that_is_there(registry, tmp_path):
    first = merged(registry, tmp_path / "out")
    before = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}

    again = merged(registry, tmp_path / "out")

    assert (again.reused, again.artifact, again.digest) == ("kept", first.artifact, first.digest)
    assert again.report == first.report
    assert {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == before


def test_a_request_is_the_same_whatever_names_it_is_made_with(registry, tmp_path):
    registry.set_alias("team/a@1", "prod")
    registry.add_base(tmp_path / "base", names=["another/name"])
    first = merged(registry, tmp_path / "one", "team/a@prod", base=tmp_path / "base")
    others = [
        merged(registry, tmp_path / "two", f"team/a@{first.recipe['parents'][0]['digest']}"),
        merged(registry, tmp_path / "three", base="another/name"),
    ]

    assert {one.recipe_digest for one in others} == {first.recipe_digest}
    assert [one.reused for one in others] == ["copied", "copied"]


def test_a_folder_that_was_not_pushed_leaves_no_path_in_the_result(registry, tmp_path):
    by_ref = merged(registry, tmp_path / "one")
    by_path = merged(registry, tmp_path / "two", tmp_path / "a", base=tmp_path / "base")

    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert by_path.recipe["parents"][0] == {**by_ref.recipe["parents"][0], "name": None}
    assert not [name for name, content in world.bytes_of(tmp_path / "two").items() if str(tmp_path).encode() in content]


def test_small_files_are_copied_and_large_ones_share_their_bytes(registry, tmp_path, monkeypatch):
    merged(registry, tmp_path / "one")
    assert merged(registry, tmp_path / "copied").reused == "copied"
    monkeypatch.setattr("registry.artifacts.reuse._LINKED", 300)
    monkeypatch.setattr("registry.artifacts.reuse._cloned", lambda source, target: False)

    assert merged(registry, tmp_path / "linked").reused == "linked"

    assert world.bytes_of(tmp_path / "linked") == world.bytes_of(tmp_path / "one")
    one, copied, linked = (
        {path.name: path.stat().st_ino for path in (tmp_path / name).iterdir()} for name in ("one", "copied", "linked")
    )
    assert copied["model.safetensors"] != one["model.safetensors"] == linked["model.safetensors"]
    assert copied["config.json"] != one["config.json"] != linked["config.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_is_found_and_the_artifact_is_built_again(registry, tmp_path, name):
    first = merged(registry, tmp_path / "out")
    right = world.bytes_of(tmp_path / "out")
    world.flip(tmp_path / "out" / name)
    wrong = world.bytes_of(tmp_path / "out")

    again = merged(registry, tmp_path / "out")

    assert again.reused is None
    assert again.digest == first.digest
    assert world.bytes_of(tmp_path / "out") == right
    assert world.bytes_of(tmp_path / "out.changed-1") == wrong
    assert "out.changed-1" in again.notes[0]


def test_a_missing_file_is_found(registry, tmp_path):
    merged(registry, tmp_path / "out")
    right = world.bytes_of(tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()

    assert merged(registry, tmp_path / "out").reused is None
    assert world.bytes_of(tmp_path / "out") == right


def test_another_intact_folder_is_used_before_anything_is_built(registry, tmp_path):
    for name in ("one", "two"):
        merged(registry, tmp_path / name)
    right = world.bytes_of(tmp_path / "two")
    world.flip(tmp_path / "one" / "model.safetensors")

    again = merged(registry, tmp_path / "three")

    assert again.reused == "copied"
    assert world.bytes_of(tmp_path / "three") == right
    assert "model.safetensors: tensor model.norm.weight" in again.notes[0]
    places = [place.path for place in registry.artifacts()[0].places]
    assert places == [str(tmp_path / "two"), str(tmp_path / "three")]


def test_a_changed_folder_is_replaced_from_an_intact_one(registry, tmp_path):
    for name in ("one", "two"):
        merged(registry, tmp_path / name)
    right = world.bytes_of(tmp_path / "two")
    world.flip(tmp_path / "one" / "model.safetensors")

    again = merged(registry, tmp_path / "one")

    assert again.reused == "copied"
    assert world.bytes_of(tmp_path / "one") == right
    assert (tmp_path / "one.changed-1").is_dir()


def test_where_a_build_fails_the_changed_folder_is_where_it_was(registry, tmp_path, monkeypatch):
    merged(registry, tmp_path / "out")
    world.flip(tmp_path / "out" / "config.json")
    before = world.bytes_of(tmp_path / "out")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.artifacts.build.materialize_merged", fails)
    with pytest.raises(OSError, match="No space left"):
        merged(registry, tmp_path / "out")

    assert world.bytes_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out"]


def test_a_build_that_died_before_it_got_its_name_is_put_there(registry, tmp_path, monkeypatch):
    def dies(folder, to):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("registry.artifacts.materialize.put", dies)
        merged(registry, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [place.state for place in registry.artifacts()[0].places] == ["missing"]
    (left,) = tmp_path.glob(".out.*")
    inode = (left / "model.safetensors").stat().st_ino

    assert merged(registry, tmp_path / "out").reused == "kept"

    assert (tmp_path / "out" / "model.safetensors").stat().st_ino == inode
    assert list(tmp_path.glob(".out.*")) == []
    assert registry.verify_artifact(1).status == "pass"


def test_a_build_that_died_and_is_damaged_is_made_again(registry, tmp_path, monkeypatch):
    def dies(*_, **__):
        raise KeyboardInterrupt

    for step in ("put", "rows.record"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(f"registry.artifacts.materialize.{step}", dies)
            merged(registry, tmp_path / "out")
        (left,) = tmp_path.glob(".out.*")
        world.flip(left / "model.safetensors")

    assert merged(registry, tmp_path / "out").reused is None
    assert registry.verify_artifact(1).status == "pass"


def test_files_that_are_no_part_of_it_are_told_and_left(registry, tmp_path):
    merged(registry, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")

    again = merged(registry, tmp_path / "out")

    assert again.reused == "kept"
    assert again.notes == (f"{tmp_path / 'out'} also holds notes.txt, which is no part of the artifact",)


@pytest.mark.parametrize("known", [False, True])
def test_a_folder_that_holds_something_else_is_refused(registry, tmp_path, known):
    if known:
        merged(registry, tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")

    with pytest.raises(ConflictError, match="out exists"):
        merged(registry, tmp_path / "out")

    assert world.bytes_of(tmp_path / "out") == {"mine": b"mine"}


def test_other_options_are_another_artifact(registry, tmp_path):
    digests = {
        merged(registry, tmp_path / name, **options).recipe_digest
        for name, options in {
            "plain": {},
            "sharded": {"shard_size": "200B"},
            "weighted": {"weights": [0.5]},
        }.items()
    }

    assert len(digests) == 3
    assert [one.artifact for one in registry.artifacts()] == [1, 2, 3]


def test_another_config_beside_the_same_weights_is_another_artifact(registry, tmp_path):
    first = merged(registry, tmp_path / "one")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace("}", ', "note": 1}'))

    again = merged(registry, tmp_path / "two")

    assert again.recipe["base"]["fingerprint"] == first.recipe["base"]["fingerprint"]
    assert again.artifact == 2
    assert json.loads((tmp_path / "two" / "config.json").read_text())["note"] == 1


def test_a_dry_run_tells_what_would_be_written_and_writes_nothing(registry, tmp_path):
    result = merged(registry, tmp_path / "out", dry_run=True)

    assert (result.path, result.artifact) == (None, None)
    assert (result.report["modules"], result.report["copied"]) == (2, 2)
    assert result.report["size"] > 4 * (10 * 4 + 6 * 4 + 8 * 4 + 4)
    assert not (tmp_path / "out").exists()
    assert registry.artifacts() == ()


def test_a_base_is_found_by_any_name_of_it_and_told_where_it_is_not(registry, tmp_path):
    fingerprint = registry.base("team/base").fingerprint
    assert merged(registry, tmp_path / "one", base=fingerprint).artifact == 1
    make_base(tmp_path / "base", seed=5)  # other weights in the folder that has the name

    with pytest.raises(
        NotFoundError, match=r"base team/base: no folder with its weights is known here; looked in .*base"
    ):
        merged(registry, tmp_path / "two", base="team/base")
    with pytest.raises(NotFoundError, match="base team/other: no base of that name"):
        merged(registry, tmp_path / "two", base="team/other")


def test_a_base_that_an_adapter_was_not_pushed_for_is_a_warning(registry, tmp_path):
    other = make_base(tmp_path / "other", seed=7)

    result = merged(registry, tmp_path / "out", base=other)

    (finding,) = result.findings
    assert (finding.rule, finding.severity, finding.target) == ("base-differs", "warning", "team/a@1")


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "odd", 3, rank=4), "team/odd")
    base = make_base(tmp_path / "small")
    (base / "model.safetensors").unlink()
    np.save(base / "x.npy", np.zeros(1))
    from safetensors.numpy import save_file

    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((6, 5), np.float32)}, base / "model.safetensors")

    with pytest.raises(RefusedError):
        merged(registry, tmp_path / "out", "team/odd", base=base)
    assert not (tmp_path / "out").exists()
    assert registry.artifacts() == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0, 2.0]}, "2 weights for 1 adapters"),
        ({"rank": 8}, "--rank is of --as hotswap, not of --as merged"),
        ({"for_engine": "vllm"}, "--for is of --as peft, not of --as merged"),
        ({"quantize": "int3"}, "quantize 'int3': expected one of nf4, int8"),
        ({"shard_size": 0}, "shard size 0: expected a positive number"),
        ({"seed": -1}, "seed -1: expected a whole number"),
        ({"jobs": 0}, "jobs 0: expected a positive number"),
    ],
)
def test_options_that_fit_nothing_are_refused(registry, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        merged(registry, tmp_path / "out", **options)


def test_a_build_that_comes_out_otherwise_is_wrong_bytes_and_is_not_left_there(registry, tmp_path, monkeypatch):
    from registry import operations

    merged(registry, tmp_path / "one")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "one" / name).unlink()
    honest = operations.materialize_merged

    def other_bytes(parts, base, to, **options):
        done = honest(parts, base, to, **options)
        tensors = {name: dict(one) for name, one in done.tensors.items()}
        tensors["model.layers.0.mlp.up_proj.weight"]["sha256"] = "0" * 64
        return operations.MadeFiles(tensors, done.report)

    monkeypatch.setattr("registry.artifacts.build.materialize_merged", other_bytes)

    with pytest.raises(
        CorruptError, match=r"artifact 1: built again, model.safetensors: tensor model.layers.0.mlp.up"
    ) as caught:
        merged(registry, tmp_path / "two")

    assert caught.value.exit_code == 6
    assert not (tmp_path / "two").exists()
