"""The first of many patterns, against trying each as PEFT does."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.format.configs.suffixes import Suffixes, ends_in


def matches(pattern, name):
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def tried(patterns, name):
    return next((pattern for pattern in patterns if matches(pattern, name)), None)


NAMES = st.lists(
    st.sampled_from(["q", "k", "layers", "0", "1", "10", "up_proj", "xq", "axq"]), min_size=1, max_size=4
).map(".".join)
PATTERNS = st.one_of(NAMES, st.sampled_from([r"layers\.0\.q", "q|k", "a.q", ".", "..", "[qk]", r".*\.q", "l.*", "^q"]))


@settings(max_examples=500, deadline=None)
@given(st.lists(PATTERNS, unique=True, max_size=8), NAMES)
def test_the_first_is_the_one_that_trying_each_finds(patterns, name):
    assert Suffixes(patterns, matches).first(name) == tried(patterns, name)


@pytest.mark.parametrize(
    ("patterns", "name", "first"),
    [
        (["a.q", "axq"], "m.axq", "a.q"),
        (["axq", "a.q"], "m.axq", "axq"),
        (["q|k", "q"], "m.q", "q|k"),
        (["q", "q|k"], "m.q", "q"),
        (["proj"], "m.up_proj", None),
        (["up_proj"], "up_proj", "up_proj"),
        (["m.q"], "q", None),
        ([], "q", None),
    ],
)
def test_first_by_hand(patterns, name, first):
    """A dot stands for any character, whatever stands first in the config wins, and a match starts at a dot."""
    assert Suffixes(patterns, matches).first(name) == first


def test_thousands_of_experts_are_no_product():
    names = [f"model.layers.{place // 64}.mlp.experts.{place % 64}.up_proj" for place in range(8192)]
    started = time.process_time()

    index = Suffixes(names, matches)

    assert [index.first(name) for name in names] == names
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("name", "found"),
    [("m.a.q", True), ("q", False), ("m.xq", False), ("m.q.", False), ("a.b.c", True), ("b.c.d", False)],
)
def test_endings_start_after_a_dot(name, found):
    assert ends_in(name, frozenset({"q", "b.c"})) is found
