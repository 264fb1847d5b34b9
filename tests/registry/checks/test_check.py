"""Check: the rules over references and paths, changing nothing."""

import json

import numpy as np
import pytest

from engine.errors import OptionError
from registry.errors import IntakeError, NotFoundError, UsageError
from tests.registries import factors, make_adapter, make_base

Q_B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


def errors(report):
    return {(finding.target, finding.rule) for finding in report.findings if finding.severity == "error"}


def test_a_path_and_a_reference_are_judged_in_one_report(registry, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "good", revision="0" * 40), "team/good")
    bad = str(make_adapter(tmp_path / "bad", tensors={**factors(0), Q_B: np.full((6, 2), np.inf, np.float32)}))
    report = registry.check("team/good", bad)

    assert report.status == "fail"
    assert report.targets == {"team/good": "pass", bad: "fail"}
    assert errors(report) == {(bad, "value-nonfinite")}


def test_without_a_base_its_rules_are_skipped_and_leave_the_status(registry, tmp_path):
    folder = make_adapter(tmp_path / "a", revision="0" * 40)
    report = registry.check(str(folder))

    assert report.status == "warn"  # the base is unknown
    assert {finding.rule for finding in report.findings if finding.severity == "warning"} == {"base-unknown"}
    assert "base-shape" in {finding.rule for finding in report.findings if finding.severity == "skipped"}


@pytest.mark.parametrize("spell", ["team/base", "path"])
def test_a_given_base_is_compared_by_name_or_path(registry, tmp_path, spell):
    folder = make_base(tmp_path / "base")
    registry.add_base(folder, names=["team/base"])
    wrong = {key: np.pad(value, ((0, 0), (0, 1))) if "lora_A" in key else value for key, value in factors(0).items()}
    adapter = str(make_adapter(tmp_path / "a", tensors=wrong, base_model_name_or_path="unknown/one"))
    report = registry.check(adapter, base=str(folder) if spell == "path" else spell)

    assert errors(report) == {(adapter, "base-shape")}


def test_an_unknown_given_base_is_not_found(registry, tmp_path):
    with pytest.raises(NotFoundError, match="nobody/knows"):
        registry.check(str(make_adapter(tmp_path / "a")), base="nobody/knows")


def test_a_base_known_from_its_config_alone_checks_shapes(registry, tmp_path):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 10,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = registry.add_base(tmp_path / "config.json", names=["team/base"])
    adapter = str(make_adapter(tmp_path / "a"))  # its q_proj gives 6 outputs, this base 4

    assert info.fingerprint is None
    assert errors(registry.check(adapter)) == {(adapter, "base-shape")}


def test_checking_changes_nothing(registry, tmp_path):
    adapter = make_adapter(tmp_path / "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts}
    registry.check(str(adapter))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts}

    assert after == before
    assert registry.list() == []


def test_a_version_is_judged_against_the_base_it_was_pushed_for(registry, tmp_path):
    """Its config names a folder of the machine it was trained on, as many do."""
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    folder = make_adapter(tmp_path / "a", revision="0" * 40, base_model_name_or_path="trained/elsewhere")
    registry.push(folder, "team/sql", base="team/base")
    rules = {finding.rule: finding.severity for finding in registry.check("team/sql").findings}

    assert "base-unknown" not in rules
    assert rules.get("base-shape") != "skipped"


def test_adapters_that_meet_are_one_result_of_their_own(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a", revision="0" * 40), "team/a")
    other = str(make_adapter(tmp_path / "b", seed=1, revision="0" * 40, use_rslora=True))

    report = registry.check("team/a", with_refs=[other], together=["hotswap", "batch"])
    asked = {verdict.question: verdict for verdict in report.results}

    assert report.targets == {"team/a": "warn", f"team/a + {other}": "fail"}
    assert asked["hotswap"].status == "fail"
    assert asked["batch"].status == "pass"
    assert asked["hotswap"].numbers["target_rank"] == 2
    assert errors(report) == {(f"team/a + {other}", "hotswap-settings")}
    assert report.as_json()["results"][1]["numbers"]["load_first"] == "team/a"


def test_two_names_of_one_base_are_one(registry, tmp_path):
    base = make_base(tmp_path / "base")
    registry.add_base(base, names=["team/base", "team/other-name"])
    folders = [
        str(make_adapter(tmp_path / name, base_model_name_or_path=name)) for name in ("team/base", "team/other-name")
    ]
    strangers = [str(make_adapter(tmp_path / name, base_model_name_or_path=name)) for name in ("team/x", "team/y")]

    assert "merge-base" not in {rule for _, rule in errors(registry.check(*folders, together=["merge"]))}
    assert "merge-base" in {rule for _, rule in errors(registry.check(*strangers, together=["merge"]))}
    assert "merge-base" not in {rule for _, rule in errors(registry.check(*strangers, base=str(base), together=["merge"]))}  # fmt: skip


def test_adapters_to_meet_need_a_question(registry, tmp_path):
    folder = str(make_adapter(tmp_path / "a"))

    with pytest.raises(UsageError, match="--together"):
        registry.check(folder, with_refs=[folder])
    with pytest.raises(OptionError, match="hotswap"):
        registry.check(folder, together=["swap"])


def test_a_change_larger_than_its_weight_needs_the_bases_norms(registry, tmp_path):
    base, loud = make_base(tmp_path / "base"), {key: value * 1000 for key, value in factors(0).items()}
    folder = str(make_adapter(tmp_path / "a", tensors=loud))
    registry.add_base(base, names=["team/base"])
    before = registry.check(folder)

    info = registry.add_base(base, names=["team/base"], norms=True)
    after = registry.check(folder)

    assert not info.created
    assert info.norms > 0
    assert registry.base("team/base").norms == info.norms
    assert "norm-large" not in {finding.rule for finding in before.findings}
    assert "norm-large" in {finding.rule for finding in after.findings}


def test_a_config_alone_has_no_norms(registry, tmp_path):
    base = make_base(tmp_path / "base")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8, "intermediate_size": 8}  # fmt: skip
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.json").write_text(json.dumps(config))

    with pytest.raises(IntakeError, match="--norms"):
        registry.add_base(tmp_path / "alone", norms=True)
    assert registry.add_base(base).norms == 0
