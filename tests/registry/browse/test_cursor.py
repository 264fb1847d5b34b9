from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.browse.cursor import decode_cursor, encode_cursor, mark_of
from registry.browse.filters import ListQuery
from registry.errors import UsageError

KEYS = {str: st.text(), int: st.integers(-(2**63), 2**63 - 1), float: st.floats(allow_nan=False, allow_infinity=False)}


@given(st.data(), st.lists(st.sampled_from([str, int, float]), min_size=1, max_size=3))
def test_a_cursor_gives_back_its_key(data, kinds):
    key = tuple(data.draw(KEYS[kind]) for kind in kinds)
    cursor = encode_cursor(mark_of(ListQuery()), key)

    assert decode_cursor(ListQuery(cursor=cursor), kinds) == key
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_no_cursor_is_the_first_page():
    assert decode_cursor(ListQuery(), (str,)) is None


def test_the_limit_may_change_between_pages_and_a_filter_may_not():
    assert mark_of(ListQuery(limit=5, cursor="x")) == mark_of(ListQuery(limit=7))
    assert len({mark_of(query) for query in (ListQuery(), ListQuery(base="a"), ListQuery(sort="size"))}) == 3


def forged(*content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([mark_of(ListQuery()), *content]).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "=",
        "äöü",
        "a b",
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 50_000).decode(),
        forged(),
        forged("a"),
        forged("a", "b", "c"),
        forged("a", "1"),
        forged("a", True),
        forged("a", None),
        forged("a", 2**63),
        forged("a", 1.0),
        forged(["a"], 1),
    ],
)
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(UsageError):
        decode_cursor(ListQuery(cursor=cursor), (str, int))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400])
def test_a_number_that_no_column_holds_is_refused(value):
    content = f'["{mark_of(ListQuery())}", {value}]'
    cursor = base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    with pytest.raises(UsageError):
        decode_cursor(ListQuery(cursor=cursor), (float,))
