"""A card's licence, as its README.md names it."""

import os

import pytest

from registry.origins.card import Card, card_of, read_card
from registry.origins.origin import base_licence


def licence(block):
    return card_of(f"---\n{block}\n---\n# Title\n".encode())


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("license: mit", "mit"),
        ("license: Apache-2.0", "apache-2.0"),
        ("license: ' mit '", "mit"),
        ("license: [mit]", "mit"),
        ("license:\n- mit\n- apache-2.0", "mit and apache-2.0"),
        ("license: mit\nlicense: gemma", "gemma"),
        # the Hub's way to name a licence that it has no identifier for
        ("license: other\nlicense_name: Acme-1.0\nlicense_link: LICENSE", "acme-1.0"),
        ("license_name: acme-1.0\nlicense: Other", "acme-1.0"),
        ("license: other", "other"),
        ("license: mit\nlicense_name: acme-1.0", "mit"),
        # nothing said
        ("license_name: acme-1.0", None),
        ("license:", None),
        ("license: null", None),
        ("license: ''", None),
        ("license: []", None),
        ("license: ['', ~]", None),
        ("License: mit", None),
        ("licence: mit", None),
        ("model-index:\n- license: mit", None),
    ],
)
def test_the_licence_of_a_card(block, expected):
    assert licence(block) == Card(expected)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("license: none", "expected an identifier"),
        ("license: 'mit\\e[31m'", "expected an identifier"),  # in single quotes a backslash is one
        ('license: "mit\\e[31m"', "expected an identifier"),
        ('license: "mit\\u202e"', "expected an identifier"),
        ("license: " + "m" * 257, "at most 256 long"),
        ("license: [" + "mit, " * 60 + "mit]", "at most 256 long"),
        ("license: [", "front matter is not YAML"),
        ("- license\n- mit", "front matter is not a mapping"),
    ],
)
def test_a_licence_that_cannot_be_read_is_a_problem_and_no_licence(block, said):
    found = licence(block)

    assert found.licence is None
    assert said in (found.problem or "")
    assert (found.problem or "").isprintable()


@pytest.mark.parametrize("text", [b"", b"# Title\n", b"---\nlicense: mit\n", b"\x00\xff\xfe", b"license: mit\n"])
def test_a_text_without_front_matter_says_nothing(text):
    assert card_of(text) == Card()


def test_a_byte_order_mark_hides_nothing():
    assert card_of(b"\xef\xbb\xbf---\nlicense: mit\n---\n") == Card("mit")


def test_bytes_that_are_no_utf8_are_no_problem_outside_the_licence():
    assert card_of(b"---\nauthor: Ren\xe9\nlicense: mit\n---\n\xff") == Card("mit")
    assert card_of(b"---\nlicense: mit\xe9\n---\n").licence is None
    assert "expected an identifier" in (card_of(b"---\nlicense: mit\xe9\n---\n").problem or "")


def test_what_ends_after_the_first_megabyte_is_not_looked_for():
    block = b"license: mit\n" + b"#" * (1 << 20) + b"\n"

    assert card_of(b"---\n" + block + b"---\n") == Card()


def test_a_huge_text_below_the_front_matter_is_no_matter():
    assert card_of(b"---\nlicense: mit\n---\n" + b"x" * (2 << 20)) == Card("mit")


class TestFolders:
    def test_the_readme_is_the_card(self, tmp_path):
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
        (tmp_path / "readme.txt").write_text("---\nlicense: gemma\n---\n")

        assert read_card(tmp_path) == Card("mit")

    def test_what_is_no_file_is_no_card(self, tmp_path):
        assert read_card(tmp_path) == Card()
        os.mkfifo(tmp_path / "README.md")  # opened, it would wait for a writer
        assert read_card(tmp_path) == Card()
        (tmp_path / "README.md").unlink()
        (tmp_path / "README.md").mkdir()
        assert read_card(tmp_path) == Card()

    def test_a_bases_card_lies_beside_its_file_too(self, tmp_path):
        (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
        (tmp_path / "model.safetensors").touch()

        assert base_licence(tmp_path) == base_licence(tmp_path / "model.safetensors") == "gemma"
