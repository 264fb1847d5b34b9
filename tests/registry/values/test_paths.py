"""Which paths a version's files may have."""

import pytest

from registry.values.paths import clashing, path_problem


@pytest.mark.parametrize(
    "path", ["a", "a/b/c.txt", "README.md", ".gitattributes", "-rf", "日本/é.txt", "a b", "x" * 255, "con-text"]
)
def test_plain_relative_paths_are_fine(path):
    assert path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is not a plain relative path"),
        ("/etc/passwd", "is not a plain relative path"),
        ("../x", "is not a plain relative path"),
        ("a/../../b", "is not a plain relative path"),
        ("./a", "is not a plain relative path"),
        ("a//b", "is not a plain relative path"),
        ("a/./b", "is not a plain relative path"),
        ("a/", "is not a plain relative path"),
        ("..\\x", "has '\\\\', which is not portable"),
        ("\\\\h\\s", "has '\\\\', which is not portable"),
        ("C:\\x", "has ':', which is not portable"),
        ("D:x", "has ':', which is not portable"),
        ("a\0b", "has control, invisible or undecodable characters"),
        ("a\x7fb", "has control, invisible or undecodable characters"),
        ("\u202egnp", "has control, invisible or undecodable characters"),
        ("a\u200bb", "has control, invisible or undecodable characters"),
        ("a\udcffb", "has control, invisible or undecodable characters"),
        ("a\u2028b", "has control, invisible or undecodable characters"),
        ("CON", "is a device name on Windows"),
        ("sub/nul.txt", "is a device name on Windows"),
        ("COM1.tar.gz", "is a device name on Windows"),
        ("aux.", "starts or ends with a space or ends with a dot, which is not portable"),
        ("name ", "starts or ends with a space or ends with a dot, which is not portable"),
        ("é" * 128, "has a part longer than 255 bytes"),
        ("a/" * 513 + "a", "is longer than 1024 bytes"),
    ],
)
def test_others_are_refused_with_the_reason(path, problem):
    assert path_problem(path) == problem


@pytest.mark.parametrize(
    ("paths", "pair"),
    [
        (["a", "b"], None),
        (["a/b", "a/c"], None),
        (["ab", "a/b"], None),
        (["a", "A"], ("a", "A")),
        (["a/x", "A/y"], ("a/x", "A/y")),
        (["a", "a/b"], ("a", "a/b")),
        (["a/b", "a"], ("a/b", "a")),
        (["A", "a/b"], ("A", "a/b")),
        (["\u00e9", "e\u0301"], ("\u00e9", "e\u0301")),
        (["\u00df", "SS"], ("\u00df", "SS")),
        (["a", "a"], ("a", "a")),
    ],
)
def test_paths_that_are_one_somewhere_are_found(paths, pair):
    assert clashing(paths) == pair
