from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry.cli.shown.text import fields, moment, number, pairs, percent, plural, printable, size, table, width

HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "bell\x07": r"bell\x07",
    "nul\x00": r"nul\x00",
    "delete\x7f": r"delete\x7f",
    "c1\x9b31m": r"c1\x9b31m",
    "two\nlines\r\t": r"two\nlines\r\t",
    "bidi\u202egnp.exe": r"bidi\u202egnp.exe",
    "isolate\u2066x\u2069": r"isolate\u2066x\u2069",
    "zero\u200bwidth": r"zero\u200bwidth",
    "bom\ufeff": r"bom\ufeff",
    "line\u2028paragraph\u2029": r"line\u2028paragraph\u2029",
    "surrogate\udc80": r"surrogate\udc80",
    "tag\U000e0041": r"tag\U000e0041",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_hidden_characters_are_escaped(text: str, shown: str):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["plain", "größe", "日本語", "a b", "emoji 🙂", ""])
def test_readable_text_stays(text: str):
    assert printable(text) == text


def test_every_control_character_is_escaped():
    """C0, DEL and C1, one by one."""
    controls = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]

    assert [char for char in controls if printable(char) == char] == []


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("größe", 5), ("日本", 4), ("e\u0301", 1)])
def test_width_counts_columns_of_a_terminal(text: str, columns: int):
    assert width(text) == columns


def test_table_aligns_text_left_and_numbers_right():
    lines = list(table(("NAME", "SIZE"), [("a", "5"), ("long-name", "1234")], right=("SIZE",)))

    assert lines == [
        "NAME       SIZE",
        "a             5",
        "long-name  1234",
    ]


def test_table_aligns_wide_characters_by_columns():
    assert list(table(("N", "X"), [("日本", "1"), ("abc", "2")])) == ["N     X", "日本  1", "abc   2"]


def test_table_never_truncates():
    assert list(table(("A",), [("x" * 500,)]))[1] == "x" * 500


def test_table_escapes_its_cells():
    assert list(table(("A",), [("\x1b[2J",)])) == ["A", r"\x1b[2J"]


def test_fields_leave_out_what_is_none():
    assert list(fields({"a": "1", "long": "2", "gone": None})) == ["a     1", "long  2"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_234_567, "1.23 MB"),
        (45_600_000_000, "45.6 GB"),
        (123_000, "123 kB"),
        (999_999, "1.00 MB"),
        (10**30, "1.00e+12 EB"),
    ],
)
def test_sizes_have_three_figures(count: int, shown: str):
    assert size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (16, "16"), (0.123456, "0.1235"), (2.0, "2"), (1e-9, "1e-09")]
)
def test_numbers_have_four_figures(value: float | None, shown: str):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (1.0, "100.00 %"), (0.98765, "98.77 %"), (float("nan"), "-")]
)
def test_shares_are_percentages(value: float | None, shown: str):
    assert percent(value) == shown


def test_moments_are_utc_to_the_second():
    assert moment(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)) == "2026-01-02T03:04:05Z"
    assert moment(None) == "-"


def test_pairs_and_plurals():
    assert pairs({"task": "sql", "accuracy": 0.5}) == "task=sql accuracy=0.5"
    assert [plural(n, "blob") for n in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
