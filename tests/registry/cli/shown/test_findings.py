from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from registry.findings.verdicts import CheckReport

if TYPE_CHECKING:
    from tests.registry.cli.stub import Adapters

FINDINGS = (
    Finding("base-shape", "skipped", "no base"),
    Finding("revision-none", "info", "none given", where="revision"),
    Finding("base-copy", "skipped", "no base"),
    Finding("nan", "error", "NaN in B", target="t/a@1"),
    Finding("base-unknown", "warning", "not known", fix="adapters base add PATH"),
    Finding("other", "skipped", "no config"),
)


def test_the_worst_comes_first_and_skipped_rules_share_a_line(adapters: Adapters):
    report = CheckReport("fail", {"t/a@1": "fail", "./b": "warn"}, FINDINGS)

    assert adapters("check", "t/a", "./b", check_request=report).out.splitlines() == [
        "fail  t/a@1",
        "warn  ./b",
        "error    nan            t/a@1: NaN in B",
        "warning  base-unknown   not known",
        "         fix: adapters base add PATH",
        "info     revision-none  none given [revision]",
        "skipped  2 rules: no base",
        "skipped  1 rule: no config",
    ]


def test_quiet_names_the_rules_that_were_broken_errors_first(adapters: Adapters):
    report = CheckReport("fail", {"t/a@1": "fail"}, FINDINGS)

    assert adapters("check", "t/a", "--format", "quiet", check_request=report).out == "nan\nbase-unknown\n"
