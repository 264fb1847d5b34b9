"""docs/compatibility.md says what the tables say, for adapters that PEFT made; what is proven by running is named."""

from pathlib import Path

import pytest

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import ENGINES, parse_target
from engine.errors import EngineError
from engine.format.adapter import read_adapter

pytest.importorskip("peft")

from tests.engine.compat.engines.flavours import FLAVOURS, make

PAGE = Path(__file__).parents[4] / "docs" / "compatibility.md"
CORPUS = Path(__file__).parents[4].parent / "shared" / "corpus"


def _table(first):
    """The rows of the page's table whose head begins with that word, as cells."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows[0][1:], rows[2:]


@pytest.mark.parametrize("name", FLAVOURS)
def test_the_row_of_the_page_is_what_the_tables_say(name, tmp_path):
    heads, rows = _table("flavour")
    facts = read_adapter(make(name, tmp_path))

    targets = [parse_target(head) for head in heads]
    said = [verdict(check_for(facts, target), target) for target in targets]

    assert {row[0]: row[1:] for row in rows}[name] == said


def test_the_page_has_every_flavour_and_every_engine():
    heads, rows = _table("flavour")

    assert [row[0] for row in rows] == list(FLAVOURS)
    assert {parse_target(head).engine.name for head in heads} == {engine.name for engine in ENGINES}


def test_the_page_names_every_rule_with_its_outcome_releases_source_and_proof():
    _, rows = _table("rule")

    assert rows == [
        [
            rule.id, rule.outcome, rule.summary, _span(rule, engine),
            f"{rule.source.file}: {rule.source.symbol} ({rule.source.release})", rule.source.proof,
        ]
        for engine in ENGINES
        for rule in engine.rules
    ]  # fmt: skip


def _span(rule, engine):
    since, before = rule.span.since or engine.span.since, rule.span.before or engine.span.before
    return "snapshot" if engine.newest is None else f"{since} to <{before}"


def test_strangers_adapters_get_a_verdict_from_every_engine_or_a_typed_error():
    """Bounded: every judged file of the corpus, all engines, in a few seconds."""
    if not CORPUS.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")
    judged = 0
    for folder in sorted((CORPUS / "weights").iterdir()):
        try:
            facts = read_adapter(folder)
        except EngineError:
            continue
        for engine in ENGINES:
            target = parse_target(engine.name)
            assert verdict(check_for(facts, target), target) in ("loads", "refuses", "differs"), (folder, engine.name)
        judged += 1

    assert judged >= 13
