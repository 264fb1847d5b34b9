from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import OptionError
from registry.browse.filters import Bounds, Span, list_query, parse_created, parse_duration, parse_size, parse_sort
from registry.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1500", 1500),
        ("1B", 1),
        ("2KB", 2000),
        ("2KiB", 2048),
        ("1.5mb", 1_500_000),
        ("1 GiB", 2**30),
        ("3TB", 3 * 10**12),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KB", "-1", "1e3", "1K", "5 parsecs", "٣", "1..2"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90s", 90), ("15m", 900), ("12h", 43200), ("7d", 604800)])
def test_durations(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7", "d", "7w", "-1d", "1.5h", "9999999999d", "٧d"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError):
        parse_duration(text)


def test_the_longest_durations_are_taken():
    assert parse_duration("999999999d").days == 999_999_999


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("8..32", Bounds(8, 32)), ("8..", Bounds(8, None)), ("..8", Bounds(None, 8)), ("8", Bounds(8, 8))],
)
def test_ranges(text, bounds):
    assert list_query(rank=text).rank == bounds


@pytest.mark.parametrize("text", ["", "..", "a..b", "1..2..3", "9..8", "1.5", "-1..4", "8...9", "²"])
def test_what_is_no_range_of_ranks(text):
    with pytest.raises(UsageError, match="rank"):
        list_query(rank=text)


def test_metric_ranges_take_any_finite_number():
    query = list_query(metrics={"b": "-1.5..2e-3", "a": "0.5"})

    assert query.metrics == (("a", Bounds(0.5, 0.5)), ("b", Bounds(-1.5, 0.002)))
    for text in ("nan", "..inf", "x"):
        with pytest.raises(UsageError, match="metric a"):
            list_query(metrics={"a": text})


def test_a_day_ends_with_its_last_microsecond():
    day = datetime(2026, 2, 1, tzinfo=UTC)

    assert parse_created("2026-02-01") == Span(day, day + timedelta(days=1, microseconds=-1))
    assert parse_created("..2026-02-01T12:00:00+02:00") == Span(None, datetime(2026, 2, 1, 10, tzinfo=UTC))
    assert parse_created("7d") == Span(timedelta(days=7), None)
    assert parse_created("30d..7d") == Span(timedelta(days=30), timedelta(days=7))


@pytest.mark.parametrize("text", ["", "..", "yesterday", "2026-13-01", "7w.."])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="created"):
        parse_created(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name", ("name", False)),
        ("size:desc", ("size", True)),
        ("size:asc", ("size", False)),
        ("metric:f1:desc", ("metric:f1", True)),
        ("metric:desc:desc", ("metric:desc", True)),
    ],
)
def test_sort_keys(text, expected):
    assert parse_sort(text) == expected


@pytest.mark.parametrize("text", ["", "digest", "name:down", "metric:", ":desc", "name; DROP TABLE tags"])
def test_what_is_no_sort_key(text):
    with pytest.raises(UsageError, match="sort key"):
        parse_sort(text)


@pytest.mark.parametrize("glob", ["", "a/b/c", "a[bc]", "a b", "ä*", "%", "'"])
def test_what_is_no_name_pattern(glob):
    with pytest.raises(UsageError, match="pattern"):
        list_query(name=glob)


@pytest.mark.parametrize("check", ["vllm", "vllm=", "=pass", "vllm=ok", {}, {"a": "pass", "b": "fail"}])
def test_what_is_no_check(check):
    with pytest.raises(UsageError, match="check"):
        list_query(check=check)


def test_a_target_may_hold_an_equals_sign():
    assert list_query(check="vllm:max_lora_rank=8=pass").check == ("vllm:max_lora_rank=8", "pass")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("llama.cpp", "llamacpp"),
        ("VLLM", "vllm"),
        ("vllm@0.31.0", "vllm@0.31"),
        ("vllm@v0.31.2:max_lora_rank=64", "vllm@0.31.2:max_lora_rank=64"),
        ("checkin", "checkin"),
    ],
)
def test_a_check_is_asked_for_in_the_words_that_check_takes(asked, kept):
    assert list_query(check=f"{asked}=pass").check == (kept, "pass")
    assert list_query(check={asked: "fail"}).check == (kept, "fail")


@pytest.mark.parametrize("asked", ["nope", "vlm", "vllm:nope=1", "vllm@x y", "CHECKIN"])
def test_an_engine_that_no_check_can_have_asked_is_refused(asked):
    """An empty page would read as: none of them passes."""
    with pytest.raises(OptionError, match=asked.partition(":")[0].partition("@")[0]):
        list_query(check=f"{asked}=pass")


def test_a_negative_limit_is_refused():
    with pytest.raises(UsageError, match="limit"):
        list_query(limit=-1)
