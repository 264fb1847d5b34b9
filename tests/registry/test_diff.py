"""diff: versions and folders side by side; numbers against dense matrices, equality against planted changes."""

import json
import re

import numpy as np
import pytest

from registry.cli.failure import run
from registry.errors import CorruptError, IntakeError, NotFoundError
from registry.values.plainjson import to_json
from tests.registries import MODULES, factors, make_adapter, open_registry

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"
P = "base_model.model."


@pytest.fixture
def home(tmp_path):
    opened = open_registry(tmp_path / "home")
    opened.push(make_adapter(tmp_path / "one", 1), "team/sql")
    opened.push(make_adapter(tmp_path / "two", 2), "team/sql")
    yield opened
    opened.close()


def delta(seed, name, scaling=2.0):
    tensors = factors(seed)
    a, b = (tensors[f"{P}{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return scaling * b @ a


def modules(found):
    return {module.name: module for module in found.modules}


def test_a_version_and_the_folder_it_came_from_are_the_same(home, tmp_path):
    found = home.diff("team/sql@1", str(tmp_path / "one"))

    assert found.same
    assert (found.config, found.tensors) == ((), ())
    assert (found.summary.same_config, found.summary.identical_tensors) == (True, True)
    assert (found.summary.relative, found.summary.cosine, found.summary.most_different) == (0.0, pytest.approx(1.0), ())
    assert {module.change for module in found.modules} == {"same"}
    assert (found.left.ref, found.left.digest) == ("team/sql@1", home.get("team/sql@1").digest)
    assert (found.right.ref, found.right.digest) == (str(tmp_path / "one"), None)


def test_other_tensors_under_one_config(home):
    found = home.diff("team/sql@1", "team/sql")

    assert not found.same
    assert (found.config, found.summary.same_config, found.summary.identical_tensors) == ((), True, False)
    assert {file.path: file.change for file in found.files} == {
        "adapter_config.json": "same",
        "adapter_model.safetensors": "changed",
    }
    weights = next(file for file in found.files if file.change == "changed")
    assert weights.left == next(f.sha256 for f in home.get("team/sql@1").files if f.path == weights.path)


def test_a_file_that_include_added_is_compared_too(home, tmp_path):
    for text in ("left", "right"):
        (tmp_path / "one" / "notes.txt").write_text(text)
        home.push(tmp_path / "one", "team/noted", include=["notes.txt"])

    found = home.diff("team/noted@1", "team/noted@2")

    assert not found.same
    assert [(file.path, file.change) for file in found.files if file.change != "same"] == [("notes.txt", "changed")]
    assert not home.diff("team/noted@1", "team/sql@1").same


def test_the_numbers_of_each_module_and_of_all_together(home):
    found = home.diff("team/sql@1", "team/sql@2")
    pairs = {name: (delta(1, name), delta(2, name)) for name in MODULES}

    for name, (one, other) in pairs.items():
        module = modules(found)[name]
        assert module.norms == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)), rel=1e-12)
        assert module.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-12)
        assert module.relative == pytest.approx(np.linalg.norm(one - other) / max(module.norms), rel=1e-12)
        assert module.cosine == pytest.approx((one * other).sum() / np.prod(module.norms), rel=1e-10)
        assert module.columns.ranks == (2, 2)
        assert (module.sign_conflict, module.elements) == (pytest.approx((one * other < 0).mean()), one.size)
        assert module.shares == pytest.approx(np.array(module.norms) / sum(module.norms))
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs.values()]) for side in (0, 1))
    assert found.summary.norms == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)), rel=1e-12)
    assert found.summary.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-12)
    assert found.summary.cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-10)
    assert (found.summary.sign_conflict, found.summary.elements) == (pytest.approx((one * other < 0).mean()), one.size)
    assert found.summary.shares == pytest.approx(np.array(found.summary.norms) / sum(found.summary.norms))


def test_most_different_modules_come_first(home, tmp_path):
    tensors = factors(1)
    tensors[f"{P}{Q}.lora_B.weight"] *= 1.1
    tensors[f"{P}{UP}.lora_B.weight"] *= 3
    make_adapter(tmp_path / "three", tensors=tensors)

    found = home.diff("team/sql@1", str(tmp_path / "three"))
    assert found.summary.most_different == (UP, Q)
    assert modules(found)[UP].relative == pytest.approx(2 / 3, rel=1e-6)
    assert modules(found)[UP].cosine == pytest.approx(1.0)


def test_config_keys_that_mean_the_same_are_no_difference(home, tmp_path):
    """PEFT writes target_modules in any order, and an absent key means its default."""
    make_adapter(tmp_path / "same", 1, target_modules=["up_proj", "q_proj"], use_dora=False, rank_pattern={})

    found = home.diff("team/sql@1", str(tmp_path / "same"))
    assert (found.config, found.same, found.summary.same_config) == ((), False, True)


def test_config_keys_that_differ_are_listed_with_both_values(home, tmp_path):
    make_adapter(tmp_path / "new", 1, lora_alpha=16, use_rslora=True, revision="abc", rank_pattern={"q": 2, "p": 2})
    make_adapter(tmp_path / "old", 1, rank_pattern={"p": 2, "q": 2})

    found = home.diff("team/sql@1", str(tmp_path / "new"))
    assert [(one.key, one.left, one.right) for one in found.config] == [
        ("lora_alpha", 4, 16),
        ("rank_pattern", {}, {"q": 2, "p": 2}),
        ("revision", None, "abc"),
        ("use_rslora", False, True),
    ]
    patterns = home.diff(str(tmp_path / "new"), str(tmp_path / "old"))
    assert "rank_pattern" in [one.key for one in patterns.config]  # their order decides which one counts


def test_facts_of_a_module_that_differ(home, tmp_path):
    """alpha 8 doubles the scaling, and with it ΔW, of the same tensors."""
    make_adapter(tmp_path / "eight", 1, lora_alpha=8)

    found = home.diff("team/sql@1", str(tmp_path / "eight"))
    assert found.summary.identical_tensors
    assert [(fact.key, fact.left, fact.right) for fact in modules(found)[Q].facts] == [
        ("alpha", 4, 8),
        ("scaling", 2.0, 4.0),
    ]
    assert modules(found)[Q].change == "changed"
    assert modules(found)[Q].relative == pytest.approx(0.5)


def test_modules_of_one_side_alone(home, tmp_path):
    tensors = {name: value for name, value in factors(1).items() if Q in name}
    make_adapter(tmp_path / "less", tensors=tensors)

    gone = home.diff("team/sql@1", str(tmp_path / "less"))
    come = home.diff(str(tmp_path / "less"), "team/sql@1")
    assert (modules(gone)[UP].change, modules(come)[UP].change) == ("removed", "added")
    assert modules(gone)[UP].norms == (pytest.approx(np.linalg.norm(delta(1, UP))), None)
    assert gone.summary.modules == {"same": 1, "changed": 0, "added": 0, "removed": 1, "not_compared": 0}


def test_tensors_that_are_no_factors_are_compared_by_their_bytes(home, tmp_path):
    head, bias = {f"{P}head.weight": np.ones((2, 2), np.float32)}, {f"{P}head.bias": np.ones(2, np.float32)}
    for name, extra in (("left", head | bias), ("right", {f"{P}head.weight": np.zeros((2, 2), np.float32)})):
        make_adapter(tmp_path / name, tensors=factors(1) | extra, modules_to_save=["head"])

    found = home.diff(str(tmp_path / "left"), str(tmp_path / "right"))
    assert [(one.path, one.change) for one in found.tensors] == [
        (f"{P}head.bias", "removed"),
        (f"{P}head.weight", "changed"),
    ]
    assert {module.change for module in found.modules} == {"same"}
    assert not found.summary.identical_tensors


def test_another_method_than_lora_is_compared_by_bytes(home, tmp_path):
    tensors = {f"{P}m.ia3_l": np.ones((4, 1), np.float32)}
    for name in ("left", "right"):
        make_adapter(tmp_path / name, tensors=tensors, peft_type="IA3", feedforward_modules=[])

    found = home.diff(str(tmp_path / "left"), str(tmp_path / "right"))
    assert (found.same, found.modules, found.summary.relative) == (True, (), None)
    assert [one.change for one in found.tensors] == ["same"]


def test_what_cannot_be_compared_is_named_and_counted(home, tmp_path):
    tensors = factors(1)
    tensors[f"{P}{Q}.lora_A.weight"][0, 0] = np.nan
    make_adapter(tmp_path / "nan", tensors=tensors)

    found = home.diff("team/sql@1", str(tmp_path / "nan"))
    assert modules(found)[Q].reason == "values are not finite"
    assert found.summary.modules["not_compared"] == 1
    assert json.loads(json.dumps(to_json(found), allow_nan=False))["summary"]["relative"] == 0.0


def test_a_stored_side_is_verified(home):
    """Nothing is told about bytes that are not the version's."""
    digest = next(file.sha256 for file in home.get("team/sql@1").files if file.path.endswith(".safetensors"))
    blob = home.settings.blobs / "sha256" / digest[7:9] / digest[7:]
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)

    with pytest.raises(CorruptError):
        home.diff("team/sql@1", "team/sql@2")


def test_sides_that_are_not_there(home, tmp_path):
    with pytest.raises(NotFoundError, match="team/nothing"):
        home.diff("team/sql", "team/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntakeError, match="empty"):
        home.diff("team/sql", str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("right", "options", "code"),
    [("team/sql@2", [], 0), ("team/sql@2", ["--exit-code"], 1), ("team/sql@1", ["--exit-code"], 0)],
)
def test_differences_are_an_exit_code_only_where_asked_for(home, right, options, code, capfd):
    assert run(["diff", "team/sql@1", right, *options], opener=lambda settings: home) == code


def test_a_person_sees_what_differs_most(home, tmp_path, capfd):
    make_adapter(tmp_path / "alpha", 1, lora_alpha=8)

    run(["diff", "team/sql@1", str(tmp_path / "alpha")], opener=lambda settings: home)
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["config", "1", "key", "differ"] in lines
    assert ["tensors", "identical"] in lines
    assert ["lora_alpha", "4", "8"] in lines
    assert ["scaling", "2.0", "4.0", "2", "modules"] in lines
    assert [
        "MODULE",
        "CHANGE",
        "NORM",
        "LEFT",
        "NORM",
        "RIGHT",
        "RELATIVE",
        "COSINE",
        "COLUMNS",
        "ROWS",
        "SIGNS",
    ] in lines
    assert next(line for line in lines if line[:1] == [Q])[-6:] == ["0.5", "1", "1", "1", "0.00", "%"]
    assert ["adapter_config.json", "changed"] in lines


def test_only_the_ten_that_differ_most_unless_all_are_asked_for(home, tmp_path, capfd):
    draw = np.random.default_rng(3).standard_normal
    for side in ("left", "right"):
        tensors = {f"{P}l.{n}.q_proj.lora_{half}.weight": draw((2, 2)) for n in range(13) for half in "AB"}
        make_adapter(tmp_path / side, tensors=tensors)
    sides = ["diff", str(tmp_path / "left"), str(tmp_path / "right")]

    run(sides, opener=lambda settings: home)
    short = capfd.readouterr().out
    run([*sides, "--all"], opener=lambda settings: home)
    whole = capfd.readouterr().out
    assert len(re.findall(r"q_proj +changed", short)) == 10
    assert "and 3 modules that differ less; --all shows them" in short
    assert len(re.findall(r"q_proj +changed", whole)) == 13
    assert "--all" not in whole


def test_names_from_a_file_cannot_act_on_a_terminal(home, tmp_path, capfd):
    make_adapter(tmp_path / "evil", tensors=factors(1) | {f"{P}\x1b[2Jhead.weight": np.ones(2, np.float32)})

    run(["diff", "team/sql@1", str(tmp_path / "evil")], opener=lambda settings: home)
    assert "\x1b" not in capfd.readouterr().out
