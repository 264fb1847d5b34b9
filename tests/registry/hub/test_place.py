"""Texts become places on the Hub, once, at the edge."""

import pytest

from registry.errors import UsageError
from registry.hub.place import HubPattern, HubPlace, is_hub, parse_pattern, parse_place

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://org/name", HubPlace("org/name")),
        ("HF://Org/Na-me_1.5", HubPlace("Org/Na-me_1.5")),
        ("hf://org/name/", HubPlace("org/name")),
        ("hf://org/name@main", HubPlace("org/name", "", "main")),
        ("hf://org/name@feature/x", HubPlace("org/name", "", "feature/x")),
        ("hf://org/name@refs/pr/12", HubPlace("org/name", "", "refs/pr/12")),
        (f"hf://org/name@{COMMIT}", HubPlace("org/name", "", COMMIT)),
        ("hf://org/name/sub/folder@v1.0", HubPlace("org/name", "sub/folder", "v1.0")),
        ("hf://org/name/sub folder", HubPlace("org/name", "sub folder")),
    ],
)
def test_places(text, place):
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "place", [HubPlace("o/n"), HubPlace("o/n", "a/b"), HubPlace("o/n", "a", "refs/pr/1"), HubPlace("o/n", "", "x")]
)
def test_a_place_is_parsed_back(place):
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "org/name",
        "hf:/org/name",
        "hf://org",
        "hf:///name",
        "hf://org//folder",
        "hf://org/name/..",
        "hf://org/name/a/./b",
        "hf://org/na--me",
        "hf://org/name.",
        "hf://-org/name",
        f"hf://org/{'n' * 97}",
        "hf://org/name@",
        "hf://org/name@-x",
        "hf://org/name@a b",
        "hf://org/name@a\nb",
        "hf://org/name@x^{tree}",
        "hf://org/name@a@b",
        "hf://user:password@host/name",
        "hf://spaces/org/name",
        "hf://org/name/CON",
        "hf://org/name/\u202egnp",
    ],
)
def test_what_is_no_place_is_refused(text):
    with pytest.raises(UsageError):
        parse_place(text)


@pytest.mark.parametrize(("revision", "whole"), [(COMMIT, True), (COMMIT[:39], False), ("main", False), (None, False)])
def test_only_forty_hex_digits_are_a_commit(revision, whole):
    assert HubPlace("o/n", "", revision).is_commit is whole


def test_a_path_below_a_folder_is_named_as_the_repo_does():
    assert HubPlace("o/n", "a/b").within("x.json") == "a/b/x.json"
    assert HubPlace("o/n").within("x.json") == "x.json"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("hf://org/*", HubPattern("org", "*")),
        ("hf://org/sql-*", HubPattern("org", "sql-*")),
        ("hf://o/n", HubPattern("o", "n")),
    ],
)
def test_patterns(text, pattern):
    assert parse_pattern(text) == pattern
    assert str(pattern) == text


@pytest.mark.parametrize("text", ["hf://org", "hf://org/", "hf://*/x", "hf://org/a/b", "hf://org/x@main", "org/*"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(UsageError):
        parse_pattern(text)


@pytest.mark.parametrize(("text", "known"), [("hf://x", True), ("HF://x", True), ("./hf://x", False), ("hf:x", False)])
def test_only_the_scheme_says_hub(text, known):
    assert is_hub(text) is known
