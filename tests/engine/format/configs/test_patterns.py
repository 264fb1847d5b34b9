"""PEFT's matching rules, compared with PEFT itself and with hand-picked names; evil expressions end in time."""

import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PatternError
from engine.format.configs.patterns import Matcher, compile_bounded, effective, is_targeted
from engine.format.configs.settings import LoraSettings

peft = pytest.importorskip("peft", reason="the oracle is not installed")
from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402 - after the skip
from peft.utils.other import get_pattern_key  # noqa: E402 - after the skip


def oracle(module, **values):
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_target_module_exists(peft.LoraConfig(**listed), module)
    return bool(found)


# module, settings, whether it is targeted: by hand from PEFT's rules, then compared with PEFT
TARGETS = [
    ("q", {"target_modules": ("q",)}, True),
    ("my_q", {"target_modules": ("q",)}, False),
    ("a.q", {"target_modules": ("q",)}, True),
    ("a.q.b", {"target_modules": ("q",)}, False),
    ("q.a", {"target_modules": ("q",)}, False),
    ("a.b.q", {"target_modules": ("b.q",)}, True),
    ("ab.q", {"target_modules": ("b.q",)}, False),
    ("a.q", {"target_modules": (".*q",)}, False),
    ("axq", {"target_modules": ("a.q",)}, False),
    ("a.q", {"target_modules": ()}, False),
    ("my_q", {"target_modules": ("zz", "my_q")}, True),
    ("q", {"target_modules": "q"}, True),
    ("a.q", {"target_modules": "q"}, False),
    ("my_q", {"target_modules": ".*q"}, True),
    ("a.q", {"target_modules": r".*\.(q|v)"}, True),
    ("a.k", {"target_modules": r".*\.(q|v)"}, False),
    ("a.qq", {"target_modules": r"a\.q|a\.qq"}, True),
    ("A.Q", {"target_modules": r"(?i)a\.q"}, True),
    ("a.q", {"target_modules": ("q",), "exclude_modules": ("a.q",)}, False),
    ("a.q", {"target_modules": ("q",), "exclude_modules": ("q",)}, False),
    ("b.q", {"target_modules": ("q",), "exclude_modules": ("a.q",)}, True),
    ("a.q", {"target_modules": ("q",), "exclude_modules": r"a\..*"}, False),
    ("a.q", {"target_modules": ("q",), "exclude_modules": "a"}, True),
    ("a.q", {"target_modules": ("q",), "modules_to_save": ("a",)}, False),
    ("xa.q", {"target_modules": ("q",), "modules_to_save": ("a",)}, True),
    ("x.a.q", {"target_modules": ("q",), "modules_to_save": ("a",)}, False),
    ("h.0.q", {"target_modules": ("q",), "layers_to_transform": (0,)}, False),
    ("m.h.0.q", {"target_modules": ("q",), "layers_to_transform": (0,)}, True),
    ("m.h.1.q", {"target_modules": ("q",), "layers_to_transform": (0,)}, False),
    ("m.h.1.q", {"target_modules": ("q",), "layers_to_transform": 1}, True),
    ("m.h.10.q", {"target_modules": ("q",), "layers_to_transform": 1}, False),
    ("m.h.1.q", {"target_modules": ("q",), "layers_to_transform": ()}, True),
    ("m.h.1.q", {"target_modules": ("m.h.1.q",), "layers_to_transform": (0,)}, True),
    ("h.1.q", {"target_modules": ("q",), "layers_to_transform": (1,), "layers_pattern": "h"}, True),
    ("h.1.q", {"target_modules": ("q",), "layers_to_transform": (1,), "layers_pattern": ("g", "h")}, True),
    ("h.1.q", {"target_modules": ("q",), "layers_to_transform": (1,), "layers_pattern": "g"}, False),
    ("h.1.q", {"target_modules": ("q",), "layers_to_transform": (1,), "layers_pattern": ()}, False),
    ("m.h.1.e.0.q", {"target_modules": ("q",), "layers_to_transform": (1,)}, True),
    ("m.h.1.e.0.q", {"target_modules": ("q",), "layers_to_transform": (0,)}, False),
    ("m.h.1.e.0.q", {"target_modules": ("q",), "layers_to_transform": (0,), "layers_pattern": "e"}, True),
    ("bar.1.baz", {"target_modules": ("baz",), "layers_to_transform": (1,), "layers_pattern": "bar"}, True),
    ("m.h.q", {"target_modules": ("q",), "layers_to_transform": (0,)}, False),
    ("q", {"target_modules": ("q",), "layers_to_transform": (0,)}, True),
    ("m.h.1.q", {"target_modules": ("h.1.q",), "layers_to_transform": (0,)}, False),
    ("a.b{e}", {"target_modules": r".*b{e}"}, True),
    ("a.bc", {"target_modules": r".*b{e}"}, False),
]


@pytest.mark.parametrize(("module", "values", "expected"), TARGETS)
def test_targets(module, values, expected):
    assert oracle(module, **values) is expected
    assert is_targeted(LoraSettings(**values), module) is expected


def test_targets_left_to_peft_fit_every_module():
    assert is_targeted(LoraSettings(target_modules=None), "any.thing")
    assert is_targeted(LoraSettings(target_modules="all-linear"), "any.thing")
    assert not is_targeted(LoraSettings(target_modules=None, target_parameters=("w",)), "any.thing")


# pattern keys in file order, module, the key that decides (None: the default)
RANKS = [
    (("q",), "a.q", "q"),
    (("ub.q",), "sub.q", None),
    (("sub.q", "q"), "a.sub.q", "sub.q"),
    (("q", "sub.q"), "a.sub.q", "q"),
    (("layers.0",), "layers.0.q", None),
    ((r"layers\.0\..*",), "m.layers.0.q", r"layers\.0\..*"),
    (("^q",), "q", "^q"),
    (("^q",), "a.q", None),
    (("a.q",), "m.axq", "a.q"),
    (("a|b",), "m.b", "a|b"),
    (("q$",), "m.q", "q$"),
    (("q",), "my_q", None),
    (("q",), "q.a", None),
    (("a.q",), "q", None),
    (("",), "m.q", None),
    ((".*",), "m.q", ".*"),
    (("[qv]",), "m.v", "[qv]"),
    (("q-v",), "m.q-v", "q-v"),
]


@pytest.mark.parametrize(("keys", "module", "decides"), RANKS)
def test_first_matching_pattern_decides(keys, module, decides):
    assert get_pattern_key(list(keys), module) == (decides or module)
    ranks = {key: number for number, key in enumerate(keys, start=100)}
    expected = ranks.get(decides, 7)
    assert effective(LoraSettings(r=7, lora_alpha=1, rank_pattern=ranks), module) == (expected, 1)
    assert effective(LoraSettings(r=7, lora_alpha=7, alpha_pattern=ranks), module) == (7, expected)


NAMES = st.lists(st.sampled_from(["a", "b", "0", "1", "layers", "q_proj"]), min_size=1, max_size=5).map(".".join)
EXPRESSIONS = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            ".",
            r"\.",
            ".*",
            "(a|b)",
            "[ab0]",
            "[^a]",
            "layers",
            r"\d+",
            "a?",
            "^",
            "$",
            "b{1,2}",
            "{e}",
            "[]a]",
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(NAMES, st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_pattern_keys_agree_with_peft(module, keys):
    found = get_pattern_key(keys, module)
    ranks = {key: number for number, key in reversed(list(enumerate(keys)))}
    ordered = {key: ranks[key] for key in dict.fromkeys(keys)}
    expected = ordered[found] if found in ordered and found != module else None
    ours = effective(LoraSettings(r=-1, rank_pattern=ordered), module)[0]
    if found != module:
        assert ours == expected


@settings(max_examples=100, deadline=None)
@given(NAMES, EXPRESSIONS, st.one_of(st.none(), EXPRESSIONS))
def test_string_targets_agree_with_peft(module, target, exclude):
    values = {"target_modules": target} | ({"exclude_modules": exclude} if exclude else {})
    assert is_targeted(LoraSettings(**values), module) == oracle(module, **values)


@settings(max_examples=100, deadline=None)
@given(
    NAMES,
    st.lists(NAMES, min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=2),
    st.sampled_from([None, "layers", "a", ()]),
)
def test_list_targets_agree_with_peft(module, targets, layers, pattern):
    values = {"target_modules": tuple(targets), "layers_to_transform": tuple(layers), "layers_pattern": pattern}
    assert is_targeted(LoraSettings(**values), module) == oracle(module, **values)


@pytest.mark.parametrize(
    "pattern",
    [
        "a{e}",
        "a{e<=1}b",
        "[[:alpha:]]",
        "[[a]b]",
        "a{,}",
        "a{}",
        "a{,3}",
        "[]a]",
        "[^]a]",
        "[a{2}]",
        "x{1i+1<2}",
        "[a[]",
        "[^[]",
        "[a||b]",
        "a]b",
    ],
)
def test_expressions_mean_what_re_reads(pattern):
    """The `regex` module gives some of these another meaning (fuzzy counts, nested sets)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = re.compile(pattern)
    texts = [
        "a",
        "ab",
        "aa",
        "aaa",
        "a{e}",
        "a{e<=1}b",
        "al]",
        "[]",
        ":]",
        "[",
        "]",
        "a{}",
        "{",
        "b]",
        "a]",
        "a]b",
        "|",
        "x{1i+1<2}",
        "^",
        "2",
        "",
    ]
    assert {t: bool(compile_bounded(pattern).fullmatch(t)) for t in texts} == {
        t: bool(theirs.fullmatch(t)) for t in texts
    }


SLOW = ".*?" * 10 + "[!?]"
# a plain literal at the end would let the `regex` module give up at once, a set does not
EVIL = [
    r"(.*)*[!?]",
    r"(\w+\.?)+[!?]",
    r"(a|a|_|\w|\.)*[!?]",
    r"(\w+?)*?[!?]",
    r"((((\w*)*)*)*)*[!?]",
    r"(?=(\w+\.?)+!)a",
    SLOW,
]
PLACES = {
    "target_modules": lambda evil: LoraSettings(target_modules=evil),
    "exclude_modules": lambda evil: LoraSettings(target_modules=("w",), exclude_modules=evil),
    "modules_to_save": lambda evil: LoraSettings(target_modules=("w",), modules_to_save=(evil,)),
    "layers_pattern": lambda evil: LoraSettings(target_modules=("w",), layers_pattern=evil, layers_to_transform=1),
    "rank_pattern": lambda evil: LoraSettings(target_modules=("w",), rank_pattern={evil: 1}),
    "alpha_pattern": lambda evil: LoraSettings(target_modules=("w",), alpha_pattern={evil: 1}),
}


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("place", PLACES)
def test_evil_expressions_end_in_time(place, evil):
    """200 modules with names of 200 characters cost no more than the budget and one overshoot."""
    matcher = Matcher(PLACES[place](evil))
    started = time.thread_time()
    try:
        for number in range(200):
            name = f"model.layers.{number}." + "self_attention_block_" * 9 + ".w"
            matcher.targets(name)
            matcher.effective(name)
    except PatternError as error:
        assert "needs more than 0.2 s" in error.reason
    assert time.thread_time() - started < 0.6


def test_slow_expression_is_refused_by_name():
    with pytest.raises(PatternError) as caught:
        is_targeted(LoraSettings(target_modules=SLOW), "model.layers.0." + "self_attention_block_" * 9)
    assert (caught.value.pattern, caught.value.reason) == (SLOW, "needs more than 0.2 s")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        (r"\p{L}", "not a regular expression"),
        ("(?P<a>.)(?P<a>.)", "not a regular expression"),
        ("a" * 10_001, "characters long"),
        ("((((a{100}){100}){100}){100})", "multiply"),
        ("(?:a{400}){400}", "multiply"),
        ("(?:" * 40 + "a" + "{2})" * 40, "multiply"),
        ("(" * 4000 + ")" * 4000, "not a regular expression"),
    ],
)
def test_expressions_that_cannot_be_bounded_are_refused(pattern, reason):
    started = time.thread_time()
    with pytest.raises(PatternError) as caught:
        is_targeted(LoraSettings(target_modules=pattern), "q")
    assert reason in caught.value.reason
    assert time.thread_time() - started < 2  # unbounded, the slowest would take minutes


def test_many_quick_expressions_are_bounded_too(monkeypatch):
    """Each costs half a millisecond to compile: a config of a megabyte has 100,000 of them."""
    monkeypatch.setattr("engine.format.configs.patterns.MOST", 0.4)
    matcher = Matcher(LoraSettings(target_modules=("q_proj",), modules_to_save=tuple(f"x{n}" for n in range(30_000))))
    started = time.thread_time()

    with pytest.raises(PatternError, match=r"needed more than 0\.4 s together"):
        matcher.targets("model.layers.0.self_attn.q_proj")

    assert time.thread_time() - started < 5
