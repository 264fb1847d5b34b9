"""The list of sabotages keeps up with the code: what it breaks is there, once."""

from pathlib import Path

import pytest

from tests.sabotage.rows import ROWS

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_broken_is_there_once_and_its_tests_are_there(row):
    assert (PROJECT / row.file).read_text().count(row.right) == 1
    assert row.right != row.wrong
    for place in row.tests.split():
        assert place.startswith("-") or place.isdigit() or (PROJECT / place).exists()


def test_no_two_have_the_same_name():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 20
