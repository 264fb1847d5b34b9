"""What the catalog keeps: facts from which rules run again, answers, and which of them are stale."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import delete, select, update

from engine import compat
from engine import format as on_disk
from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.target import ENGINES, parse_target
from engine.compat.rules.table import RULES
from engine.format.files.header import read_header
from registry.checks.lock import read_lock
from registry.errors import ConflictError, UsageError
from registry.findings import rulesets
from registry.findings.examine import documents, examine
from registry.findings.storedfacts import KIND, facts_document, read_stored
from registry.models import CheckResult, Document
from tests.registries import factors, make_adapter, make_base

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
DORA = {
    f"base_model.model.{name}.lora_magnitude_vector": np.ones(size, np.float32)
    for name, size in (("model.layers.0.self_attn.q_proj", 6), ("model.layers.0.mlp.up_proj", 8))
}
ADAPTERS = {
    "plain": {},
    "dora": {"use_dora": True, "tensors": {**factors(0), **DORA}},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 8}, "use_rslora": True},
    "unmatched": {"tensors": {**factors(0), "base_model.model.x.weight": np.ones((2, 2), np.float16)}},
    "zero": {"tensors": {key: value * ("lora_A" in key) for key, value in factors(0).items()}},
    "nan": {"tensors": {key: value * np.float32("nan") for key, value in factors(0).items()}},
    "half": {"tensors": dict(list(factors(0).items())[:3])},
    "bare": {"tensors": {key.removeprefix("base_model.model."): value for key, value in factors(0).items()}},
    "mixed": {"tensors": {k: v.astype(np.float16 if "lora_A" in k else np.float32) for k, v in factors(0).items()}},
}


def said(facts, values, base=None):
    found = check_adapter(facts, values=values, base=base, base_known=base is not None)
    for engine in ENGINES:
        found += check_for(facts, parse_target(engine.name), base=base, values=values)
    return sorted((item.rule, item.severity, item.message, item.where or "") for item in found)


def again(folder: Path):
    examined = examine(folder, digest=False)
    kept = documents(examined, spectra={}, report=None)
    stored = read_stored(kept, folder)
    assert stored is not None
    return examined, stored


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_rule_says_of_what_is_kept_what_it_says_of_the_files(tmp_path, name):
    examined, (facts, values) = again(make_adapter(tmp_path / name, **ADAPTERS[name]))

    assert said(facts, values) == said(examined.facts, examined.values)
    assert facts.modules == tuple(
        replace(one, norm=examined.values.norms.get(one.name)) for one in examined.facts.modules
    )


@pytest.mark.parametrize("held", ['{"transformer.r": 2, "transformer.lora_alpha": 4}', "{}", "[", ""])
def test_settings_in_the_header_count_for_what_is_kept_too(tmp_path, held):
    """diffusers reads them, so an adapter that it wrote is not refused once it is stored."""
    folder = make_adapter(tmp_path / "a")
    save_file(
        factors(0), folder / "adapter_model.safetensors", metadata={"lora_adapter_metadata": held, "format": "pt"}
    )
    examined, (facts, values) = again(folder)

    assert said(facts, values) == said(examined.facts, examined.values)
    assert facts.header.metadata == {"lora_adapter_metadata": held}


def corpus_folders() -> list[Path]:
    return sorted({path.parent for path in CORPUS.rglob("adapter_config.json")}) if CORPUS.is_dir() else []


def test_every_rule_says_the_same_of_what_is_kept_of_strangers_adapters():
    from engine.errors import EngineError

    compared = 0
    for folder in corpus_folders():
        try:
            examined, (facts, values) = again(folder)
        except EngineError:
            continue
        compared += 1
        assert said(facts, values) == said(examined.facts, examined.values), folder
    if not compared:
        pytest.skip("the corpus is not here")


def test_facts_of_an_adapter_as_peft_writes_it_take_little_room(tmp_path):
    """Whatever can be derived from the modules is not kept twice."""
    kept = facts_document(*_parts(make_adapter(tmp_path / "a")))

    assert (kept["keys"], kept["tensors"], kept["extras"], kept["configured"]) == ({}, [], {}, {})


def _parts(folder: Path):
    examined = examine(folder)
    return examined.facts, examined.values


def test_facts_of_another_schema_are_not_read(tmp_path):
    kept = documents(examine(make_adapter(tmp_path / "a")), spectra={}, report=None)
    newer = json.dumps(json.loads(kept[KIND]) | {"schema": 2})

    assert read_stored({**kept, KIND: newer}, tmp_path) is None
    assert read_stored({"config": "{}"}, tmp_path) is None


@pytest.fixture
def filled(prepared):
    return prepared(fill)


def fill(registry, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    for n in range(3):
        registry.push(make_adapter(tmp_path / f"a{n}", n, revision="0" * 40), f"team/a{n}")
    registry.push(make_adapter(tmp_path / "dora", **ADAPTERS["dora"]), "team/dora")


def answers(registry) -> list[tuple[int, str, str]]:
    with registry._handle.database.reading() as session:
        rows = session.execute(select(CheckResult.version_id, CheckResult.target, CheckResult.status))
        return sorted(tuple(row) for row in rows)


def test_a_check_of_a_version_is_kept_and_lists_find_it(filled):
    filled.check("team/a0", "team/dora", for_engines=["vllm"])

    assert [(info.ref, info.check.stale) for info in filled.list(check="vllm=pass")] == [("team/a0@1", False)]
    assert [info.ref for info in filled.list(check="vllm=fail")] == ["team/dora@1"]
    assert [(one.question, one.status, one.stale) for one in filled.get("team/dora").checks] == [
        ("checkin", "pass", False),
        ("vllm", "fail", False),
    ]


def test_a_check_reads_no_file_of_a_version_whose_facts_are_kept(filled):
    for blob in sorted(filled.settings.blobs.rglob("*")):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"")
    report = filled.check("team/dora", for_engines=["vllm"])

    assert {item.rule for item in report.findings if item.severity == "error"} == {"vllm-dora", "vllm-tensor-name"}


def test_a_version_of_an_older_release_is_judged_by_its_files_and_kept_then(filled):
    database = filled._handle.database
    database.write(lambda session: session.execute(delete(Document).where(Document.kind == KIND)))
    report = filled.check("team/dora", for_engines=["vllm"])

    assert report.targets == {"team/dora": "fail"}
    with database.reading() as session:
        assert len(session.scalars(select(Document.version_id).where(Document.kind == KIND)).all()) == 1


def test_a_check_against_a_given_base_or_of_a_folder_is_not_kept(filled, tmp_path):
    before = answers(filled)
    filled.check("team/a0", base=str(make_base(tmp_path / "other", 5)), for_engines=["vllm"])
    filled.check(str(tmp_path / "a0"), for_engines=["vllm"])

    assert answers(filled) == before


def test_the_same_answer_is_not_written_again(filled):
    filled.check("team/a0", for_engines=["vllm"])
    with filled._handle.database.reading() as session:
        before = session.scalars(select(CheckResult.id)).all()
    filled.check("team/a0", "team/a0@1", for_engines=["vllm"])

    with filled._handle.database.reading() as session:
        assert session.scalars(select(CheckResult.id)).all() == before


def _change_rules(monkeypatch):
    rulesets._digest.cache_clear()
    monkeypatch.setattr(rulesets, "_rules", lambda table: f"other rules of {table}")


@pytest.fixture
def other_rules(monkeypatch):
    yield lambda: _change_rules(monkeypatch)
    rulesets._digest.cache_clear()


def test_a_change_of_the_rules_makes_answers_stale_until_all_are_asked_again(filled, other_rules):
    filled.check_all(for_engines=["vllm"])
    other_rules()
    assert [info.check.stale for info in filled.list(check="vllm=pass")] == [True, True, True]
    assert {one.stale for one in filled.get("team/a0").checks} == {True}
    report = filled.check_all(for_engines=["vllm"])

    assert not any(verdict.stored for verdict in report.results)
    assert [info.check.stale for info in filled.list(check="vllm=pass")] == [False, False, False]


def test_a_base_that_becomes_known_makes_answers_stale(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a", revision="0" * 40), "team/a")
    assert registry.get("team/a").checks[0].stale is False
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])

    assert registry.get("team/a").checks[0].stale is True
    registry.check_all()
    assert [(one.status, one.stale) for one in registry.get("team/a").checks] == [("pass", False)]


def test_rules_of_one_engine_leave_answers_of_others(monkeypatch):
    one, other = rulesets.ruleset("vllm", None), rulesets.ruleset("sglang", None)

    assert len({one, other, rulesets.ruleset("checkin", None), rulesets.ruleset("vllm", "sha256:base")}) == 4
    assert rulesets.ruleset("vllm@0.32:max_lora_rank=64", None) == one
    tables = {path.stem for path in rulesets._tables("vllm")}
    assert {"vllm", "traits"} <= tables
    assert "sglang" not in tables


def test_all_live_versions_are_asked_and_what_is_answered_stays(filled):
    filled.remove("team/a2")
    filled.check("team/a0", for_engines=["vllm"])
    report = filled.check_all(for_engines=["vllm"])

    assert [
        (one.adapter, one.question, one.status, one.stored) for one in report.results if one.question == "vllm"
    ] == [
        ("team/a0@1", "vllm", "pass", True),
        ("team/a1@1", "vllm", "pass", False),
        ("team/dora@1", "vllm", "fail", False),
    ]
    assert {item.severity for item in report.findings} == {"error"}
    assert all(one.stored for one in filled.check_all(for_engines=["vllm"]).results)


def test_processes_beside_give_the_same_answers(filled, monkeypatch):
    from registry.checks import recheck

    alone = filled.check_all(for_engines=["vllm"]).results
    monkeypatch.setattr(recheck, "WORTH_A_PROCESS", 1)
    filled._handle.database.write(lambda session: session.execute(delete(CheckResult)))
    beside = filled.check_all(for_engines=["vllm"], processes=2).results

    assert [(one.adapter, one.question, one.status) for one in beside] == [
        (one.adapter, one.question, one.status) for one in alone
    ]
    assert not any(one.stored for one in beside)


RUN = """
import sys
from registry.checks import recheck
from tests.registries import open_registry
from pathlib import Path
home, database, place = sys.argv[1:]
recheck.PAGE, keep, pages = 1, recheck._keep, []
def wait():
    print("two", flush=True)
    sys.stdin.read()
def told(what, done, total):
    if place == "between" and done == 2:
        wait()
def kept(fresh, session):
    keep(fresh, session)
    pages.append(fresh)
    if place == "inside" and len(pages) == 3:
        session.flush()
        wait()
recheck._keep = kept
open_registry(Path(home), database).check_all(for_engines=["vllm"], progress=told)
"""


@pytest.mark.parametrize("place", ["between", "inside"])
def test_a_run_that_was_killed_goes_on_where_it_was(filled, place):
    """Between two pages, and inside the transaction of the third; nothing is answered twice."""
    command = [sys.executable, "-c", RUN, str(filled.settings.home), filled.settings.resolved_database_url, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"two\n"
        process.send_signal(signal.SIGKILL)
    report = filled.check_all(for_engines=["vllm"])

    assert [one.stored for one in report.results if one.question == "vllm"] == [True, True, False, False]
    kept = answers(filled)
    assert len(kept) == len({(version, question) for version, question, _ in kept}) == 4 * 2


def test_the_code_of_every_rule_counts_for_what_is_stale():
    """A rule that moves to a room that `ruleset` passes by would leave its old answers standing."""
    counted = {str(file) for file in rulesets._sources([*compat.__path__, *on_disk.__path__])}

    assert {inspect.getfile(rule.function) for rule in RULES} - counted == set()
    assert inspect.getfile(read_header) in counted
    assert not any("/engines/" in file for file in counted)


def test_a_lock_names_digests_and_bases_and_holds(filled, tmp_path):
    place = tmp_path / "adapters.lock"
    result = filled.lock("team/a0", "team/a1@1", file=place)
    (first, second) = read_lock(place)

    assert result.changed == ("team/a0", "team/a1@1")
    assert (first.ref, first.version, first.digest) == ("team/a0", "team/a0@1", filled.get("team/a0").digest)
    assert first.base == second.base == filled.base("team/base").fingerprint
    assert filled.check(lock=place).targets == {"team/a0": "pass", "team/a1@1": "pass"}


def test_a_reference_that_moved_breaks_the_lock_until_it_is_locked_again(filled, tmp_path):
    place = tmp_path / "adapters.lock"
    filled.lock("team/a0", "team/a1@1", file=place)
    filled.push(make_adapter(tmp_path / "new", 9), "team/a0")
    with pytest.raises(ConflictError, match=r"team/a0: expected sha256:\w+ \(team/a0@1\) as locked, found sha256:"):
        filled.check("team/a0", lock=place)
    filled.check("team/a1@1", lock=place)

    assert filled.lock(file=place).changed == ("team/a0",)
    filled.check(lock=place)


@pytest.mark.parametrize("target", ["team/a2", "path"])
def test_what_is_not_in_the_lock_breaks_it(filled, tmp_path, target):
    place = tmp_path / "adapters.lock"
    filled.lock("team/a0", file=place)
    with pytest.raises(ConflictError, match=r"not in|never locked") as raised:
        filled.check(str(tmp_path / "a0") if target == "path" else target, lock=place)
    named = "REF..." if target == "path" else target
    assert raised.value.hint == f"adapters lock {named} --file {place} takes what they mean now"


def test_a_reference_that_two_branches_locked_is_not_guessed(filled, tmp_path):
    place = tmp_path / "adapters.lock"
    filled.lock("team/a0", file=place)
    place.write_text(place.read_text() * 2)
    with pytest.raises(UsageError, match="'team/a0' is locked twice"):
        read_lock(place)


def test_a_lock_is_never_read_in_part(tmp_path):
    place = tmp_path / "adapters.lock"
    place.write_bytes(b"#" * ((16 << 20) + 1))
    with pytest.raises(UsageError, match="more than 16777216 bytes"):
        read_lock(place)


def test_another_base_breaks_the_lock(filled, tmp_path):
    place = tmp_path / "adapters.lock"
    filled.lock("team/a0", file=place)
    place.write_text(place.read_text().replace(filled.base("team/base").fingerprint, "sha256:" + "0" * 64))
    with pytest.raises(ConflictError, match="its base was sha256:0000"):
        filled.check("team/a0", lock=place)


@pytest.mark.parametrize(
    "text", ["x", "a = 1", "adapter = 1", '[[adapter]]\nref = "a"', '[[adapter]]\nref="a"\nversion="a@1"\ndigest="d"']
)
def test_a_wrong_lock_is_refused(tmp_path, text):
    (tmp_path / "l").write_text(text)
    with pytest.raises(UsageError):
        read_lock(tmp_path / "l")


def test_stored_findings_of_a_bygone_engine_are_stale_and_no_error(filled):
    filled.check("team/a0", for_engines=["vllm"])
    change = update(CheckResult).where(CheckResult.target == "vllm").values(target="bygone")
    filled._handle.database.write(lambda session: session.execute(change))

    assert ("bygone", True) in [(one.question, one.stale) for one in filled.get("team/a0").checks]
