"""The page of checks is the tables: every rule once, with its severity and meaning, and with something to do."""

import re
from pathlib import Path

from engine.compat.rules.licence_rules import PARENT_RULES
from engine.compat.rules.table import RULES
from engine.compat.together.tables import rules_of
from registry.basemodels.kin import CATALOG_RULES

PAGE = Path(__file__).parents[3] / "docs" / "checks.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| (\w+) \| (.+) \| (.+) \|$", re.MULTILINE)


def test_every_rule_stands_on_the_page_as_in_its_table():
    alone = [(rule.id, rule.severity, rule.summary) for rule in (*RULES, *PARENT_RULES, *CATALOG_RULES)]
    together = [row for kind in ("hotswap", "batch", "merge") for row in rules_of(kind)]

    assert sorted(row[:3] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))) == sorted([*alone, *together])


def test_and_says_what_to_do():
    assert all(len(row[3].strip()) > 5 for row in ROW.findall(PAGE.read_text(encoding="utf-8")))


def test_ids_are_given_once():
    found = [row[0] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))]

    assert len(found) == len(set(found))
