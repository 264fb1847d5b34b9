"""Baselines: what is accepted does not count and is shown; what is over or gone is told."""

from __future__ import annotations

from datetime import date

import pytest

from engine.compat.finding import Finding
from registry.checks.baseline import Baseline, Entry, apply, read_baseline, write_baseline
from registry.errors import UsageError
from registry.findings.verdicts import Asked, Verdict, assemble

TODAY = date(2026, 11, 22)
ERROR = Finding("rank", "error", "too high", target="team/a@2", where="r")
INFO = Finding("licence", "info", "none named", target="team/a@2")
RULES = (Asked("rank", "A rank is too high."), Asked("dora", "DoRA."))


def judged(*entries: Entry, findings=(ERROR, INFO), adapter="team/a@2"):
    return assemble(apply([Verdict(adapter, "vllm", findings, RULES)], Baseline("b.toml", entries), TODAY))


def entry(**changes) -> Entry:
    return Entry(**{"rule": "rank", "target": "team/a@2", "reason": "known", **changes})


def test_an_accepted_finding_does_not_count_and_is_shown_with_its_reason():
    report = judged(entry())

    assert report.status == "pass"
    assert report.findings == (INFO,)
    assert [(one.finding, one.reason) for one in report.accepted] == [(ERROR, "known")]


@pytest.mark.parametrize("target", ["team/a", "team/a@2", "team/a:2"])
def test_a_name_stands_for_all_its_versions(target):
    assert judged(entry(target=target)).status == "pass"


@pytest.mark.parametrize(
    "other", [{"rule": "dora"}, {"target": "team/a@1"}, {"target": "team/ab"}, {"where": "lora_alpha"}]
)
def test_an_entry_accepts_nothing_else(other):
    assert judged(entry(**other)).status == "fail"


def test_a_path_is_itself_with_or_without_its_last_slash():
    finding = Finding("rank", "error", "too high", target="./out/a/")

    assert judged(entry(target="./out/a"), findings=(finding,), adapter="./out/a/").status == "pass"
    assert judged(entry(target="out/a"), findings=(finding,), adapter="./out/a/").status == "fail"


def test_an_entry_holds_until_its_last_day():
    assert judged(entry(until=TODAY)).status == "pass"
    report = judged(entry(until=date(2026, 11, 21)))

    assert report.status == "fail"
    assert [finding.rule for finding in report.findings] == ["rank", "licence", "baseline-expired"]


def test_an_entry_that_is_found_no_more_is_a_warning():
    report = judged(entry(), findings=())

    assert report.status == "warn"
    assert [(one.rule, one.target) for one in report.findings] == [("baseline-stale", "b.toml")]


def test_an_entry_about_what_was_not_asked_is_not_stale():
    assert judged(entry(target="team/other"), entry(rule="sglang-rank"), findings=()).status == "pass"


def test_what_only_informs_is_not_set_apart():
    assert judged(entry(rule="licence")).findings == (ERROR, INFO)


def test_a_written_baseline_accepts_what_was_found_and_keeps_reasons(tmp_path):
    place = tmp_path / "b.toml"
    odd = Finding("dora", "warning", "on", target='./a "b"\\c\x7f\n', where="use_dora")
    known = Baseline(str(place), (entry(reason="long known", until=TODAY), entry(rule="gone")))
    verdict = Verdict("team/a@2", "vllm", (ERROR, odd, INFO), RULES)

    assert write_baseline(assemble(apply([verdict], known, TODAY)), known) == 1
    read = read_baseline(place)
    assert [(one.rule, one.target, one.reason, one.where, one.until) for one in read.entries] == [
        ("rank", "team/a@2", "long known", None, TODAY),
        ("dora", './a "b"\\c\x7f\n', "accepted when the baseline was written", "use_dora", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not readable as TOML"),
        ("x = 1", "expected nothing but"),
        ("accepted = 1", "expected nothing but"),
        ("accepted = [1]", "entry 1: expected a table"),
        ('[[accepted]]\nrule = "a"\ntarget = "b"\n', "reason is missing"),
        ('[[accepted]]\nrule = "a"\ntarget = "b"\nreason = " "\n', "reason is missing or empty"),
        ('[[accepted]]\nrule = "a"\ntarget = "b"\nreason = "c"\nuntill = 2026-01-01\n', "unknown key 'untill'"),
        ('[[accepted]]\nrule = "a"\ntarget = "b"\nreason = "c"\nuntil = "soon"\n', "until: expected a date"),
        (
            '[[accepted]]\nrule = "a"\ntarget = "b"\nreason = "c"\nuntil = 2026-01-01T00:00:00\n',
            "until: expected a date",
        ),
        ('[[accepted]]\nrule = 1\ntarget = "b"\nreason = "c"\n', "rule: expected a text"),
    ],
)
def test_a_wrong_baseline_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "b.toml").write_text(text)

    with pytest.raises(UsageError, match=message):
        read_baseline(tmp_path / "b.toml")


def test_a_baseline_that_is_not_there_or_no_text_is_refused(tmp_path):
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="not readable"):
        read_baseline(tmp_path / "b.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path)
