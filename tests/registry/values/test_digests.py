"""A digest is `sha256:` and 64 lower-case hex digits; nothing else becomes a file name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.values.digests import digest_of, hex_of, is_digest

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's example


def test_the_digest_of_abc_is_that_of_the_standard():
    assert digest_of(b"abc") == ABC


def test_the_hex_of_a_digest():
    assert hex_of(ABC) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.binary(max_size=64))
def test_every_digest_of_bytes_is_one(content):
    assert is_digest(digest_of(content))
    assert "sha256:" + hex_of(digest_of(content)) == digest_of(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "SHA256:" + "a" * 64,
        "sha512:" + "a" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + "\n",
        " sha256:" + "a" * 64,
        "sha256:../.." + "a" * 59,
        "sha256:" + "\uff11" * 64,
        "sha256:" + "\u0661" * 64,
        "sha256:" + "a" * 32 + "\0" + "a" * 31,
    ],
)
def test_anything_else_is_refused(text):
    assert not is_digest(text)
    with pytest.raises(UsageError, match="is not a digest"):
        hex_of(text)
