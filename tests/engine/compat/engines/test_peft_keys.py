"""What each release of PEFT knows, held to facts of its change log and to the script that writes the data."""

from pathlib import Path

import pytest

from engine.compat.engines import peft_changes
from engine.compat.engines.peft_keys import keys_of
from tests.engines.derive_peft_keys import page


@pytest.mark.parametrize(
    ("kind", "key", "first"),
    [
        ("LORA", "lora_bias", (0, 14)),
        ("LORA", "trainable_token_indices", (0, 15)),
        ("LORA", "alora_invocation_tokens", (0, 18)),
        ("LORA", "peft_version", (0, 18)),
    ],
)
def test_a_key_is_known_from_its_release_on(kind, key, first):
    assert key in keys_of((*first, 1), kind)
    assert key not in keys_of((first[0], first[1] - 1, 9), kind)


def test_a_key_that_went_is_known_no_more():
    assert "rank_pattern" in keys_of((0, 14), "OFT")
    assert "rank_pattern" not in keys_of((0, 15), "OFT")


def test_a_type_is_none_before_it_came_and_after_it_went():
    assert keys_of((0, 13), "BONE") is None
    assert "r" in keys_of((0, 14), "BONE")
    assert keys_of((0, 19), "BONE") is None


def test_the_data_is_as_the_script_writes_it():
    rows = peft_changes.CHANGES.replace("\n  ", " ").strip().splitlines()

    assert Path(peft_changes.__file__).read_text(encoding="utf-8") == page(rows)
