"""What parents' licences make together, against what their stewards say of them."""

import pytest

from engine.compat.check import check_adapter
from engine.compat.rule import Licensing
from engine.compat.rules.licence_rules import PARENT_RULES, combine
from engine.compat.rules.licences import LICENCES, known
from tests.engine.compat.small_adapter import adapter

A, B, C = "t/a@1", "t/b@1", "t/c@1"


def together(*licences):
    combined = combine(list(zip((A, B, C), licences, strict=False)))
    return combined.licence, [(finding.rule, finding.severity) for finding in combined.findings]


CONFLICT = [("licence-conflict", "error")]
SEVERAL = [("licence-several", "warning")]
INHERITED = [("licence-inherited", "warning")]

# (licences, the result's, what is said)
CASES = [
    (("mit", "mit"), "mit", []),
    (("gemma", "gemma"), "gemma", []),
    # The Apache Foundation's list has MIT among what may be included in Apache-2.0 works.
    (("mit", "apache-2.0"), "apache-2.0", []),
    (("cc0-1.0", "mit"), "mit", []),
    (("mit", "isc"), None, SEVERAL),
    # The FSF: Apache 2.0 is compatible with GPL 3, not with GPL 2.
    (("apache-2.0", "gpl-3.0"), "gpl-3.0", INHERITED),
    (("apache-2.0", "gpl-2.0"), None, CONFLICT),
    (("mit", "gpl-2.0"), "gpl-2.0", INHERITED),
    # SPDX's own names of the GNU licences.
    (("gpl-2.0-only", "gpl-3.0-or-later"), None, CONFLICT),
    (("apache-2.0", "gpl-3.0-or-later"), "gpl-3.0", INHERITED),
    (("gpl-3.0-only", "gpl-3.0"), "gpl-3.0", []),
    (("mit", "gpl-2.0-or-later"), None, [("licence-unfamiliar", "warning")]),
    # Creative Commons: BY-SA 4.0 may be adapted under GPL 3, one way only; BY-SA 3.0 under BY-SA 4.0.
    (("cc-by-sa-4.0", "gpl-3.0"), "gpl-3.0", INHERITED),
    (("cc-by-sa-3.0", "cc-by-sa-4.0"), "cc-by-sa-4.0", INHERITED),
    (("cc-by-sa-4.0", "gpl-2.0"), None, CONFLICT),
    # Creative Commons' chart: BY-SA and BY-NC-SA cannot be remixed with each other; BY-NC may become BY-NC-SA.
    (("cc-by-sa-4.0", "cc-by-nc-sa-4.0"), None, CONFLICT),
    (("cc-by-sa-4.0", "cc-by-nc-4.0"), None, CONFLICT),
    (("cc-by-nc-4.0", "cc-by-nc-sa-4.0"), "cc-by-nc-sa-4.0", INHERITED),
    (("cc-by-4.0", "cc-by-nc-4.0"), "cc-by-nc-4.0", INHERITED),
    # Copyleft allows no further restriction.
    (("gpl-3.0", "cc-by-nc-4.0"), None, CONFLICT),
    (("gpl-3.0", "llama3.1"), None, CONFLICT),
    (("agpl-3.0", "openrail"), None, CONFLICT),
    # Restrictions of two makers: both hold.
    (("llama3.1", "gemma"), None, SEVERAL),
    (("llama3.1", "cc-by-nc-4.0"), None, SEVERAL),
    (("apache-2.0", "llama3.1"), "llama3.1", INHERITED),
    (("mit", "apache-2.0", "gemma"), "gemma", INHERITED),
    # No derivatives.
    (("cc-by-nd-4.0", "cc-by-nd-4.0"), "cc-by-nd-4.0", [("licence-no-derivatives", "error")] * 2),
    (("mit", "cc-by-nc-nd-4.0"), None, [("licence-no-derivatives", "error"), *SEVERAL]),
    # Nothing to go by.
    (("mit", None), None, [("licence-unnamed", "info")]),
    ((None, None), None, [("licence-unnamed", "info")] * 2),
    (("mit", "acme-internal"), None, [("licence-unfamiliar", "warning")]),
    (("acme-internal", "acme-internal"), "acme-internal", [("licence-unfamiliar", "warning")] * 2),
    # A conflict is seen beside a parent that says nothing.
    (("gpl-3.0", "gemma", None), None, [("licence-unnamed", "info"), *CONFLICT]),
]


@pytest.mark.parametrize(("licences", "result", "said"), CASES, ids=str)
def test_what_licences_make_together(licences, result, said):
    assert together(*licences) == (result, said)


@pytest.mark.parametrize(("licences", "result", "said"), CASES, ids=str)
def test_the_order_of_parents_is_no_matter(licences, result, said):
    found, rules = together(*reversed(licences))

    assert (found, sorted(rules)) == (result, sorted(said))


def test_a_finding_names_both_parents_and_what_they_ask_for():
    (found,) = combine([(A, "gpl-3.0"), (B, "cc-by-nc-4.0")]).findings

    assert found.message == (
        "t/a@1 is gpl-3.0 (share-alike), t/b@1 is cc-by-nc-4.0 (non-commercial): a result can fulfil only one of them"
    )


def test_every_rule_over_parents_is_met_above():
    assert {rule for _, _, said in CASES for rule, _ in said} == {rule.id for rule in PARENT_RULES}


def test_every_row_has_its_source_and_names_rows():
    for row in LICENCES.values():
        assert row.source.startswith("https://")
        assert row.onward | row.refuses <= LICENCES.keys(), row.id
        assert row.id == row.id.lower()


def _said(tmp_path, **licensing):
    found = check_adapter(adapter(tmp_path), base_known=True, licensing=Licensing(**licensing))
    return [(one.rule, one.severity, one.message) for one in found if one.rule.startswith("licence")]


def test_an_adapter_without_a_licence_is_told(tmp_path):
    message = "no licence is named, in the card or otherwise"

    assert _said(tmp_path, licence=None) == [("licence-missing", "info", message)]
    assert _said(tmp_path, licence=None, problem="front matter is not YAML") == [
        ("licence-missing", "info", f"{message}: front matter is not YAML")
    ]


def test_an_unknown_licence_is_told(tmp_path):
    assert known("acme-1") is None
    assert [rule for rule, _, _ in _said(tmp_path, licence="acme-1")] == ["licence-unknown"]


@pytest.mark.parametrize("base", ["llama3.1", "gemma", "cc-by-nc-4.0"])
def test_lighter_terms_than_the_bases_are_told(tmp_path, base):
    ((rule, severity, message),) = _said(tmp_path, licence="apache-2.0", base=base)

    assert (rule, severity) == ("licence-of-base", "warning")
    assert message.startswith(f"the adapter is apache-2.0, its base {base} (")


@pytest.mark.parametrize(
    ("own", "base"), [("llama3.1", "llama3.1"), ("mit", "apache-2.0"), ("gpl-3.0", "cc-by-sa-4.0")]
)
def test_terms_that_carry_the_bases_are_no_finding(tmp_path, own, base):
    assert _said(tmp_path, licence=own, base=base) == []


def test_nobody_asked_nothing_said(tmp_path):
    assert not [one for one in check_adapter(adapter(tmp_path)) if one.rule.startswith("licence")]


@pytest.mark.parametrize(
    ("licences", "rule"),
    [(("gpl-2.0", "gpl-3.0"), "licence-conflict"), (("mit", "cc-by-nd-4.0"), "licence-no-derivatives")],
)
def test_a_refusal_says_how_to_go_on(licences, rule):
    refusal = combine(list(zip((A, B), licences, strict=True))).findings[0]

    assert refusal.rule == rule
    assert f"--allow {rule}" in (refusal.fix or "")
