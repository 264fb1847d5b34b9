"""The tables of configuration keys equal those of the installed peft."""

import dataclasses

import pytest

from engine.format.configs.fields import COMMON, FIELDS
from engine.format.configs.settings import LoraSettings, parse_lora

peft = pytest.importorskip("peft", reason="the oracle is not installed")
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: E402 - after the skip


def names(config_class):
    return {field.name for field in dataclasses.fields(config_class) if field.init}


def test_every_type_of_peft_is_known():
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == set(FIELDS)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_keys_of_the_type_are_pefts(kind):
    assert FIELDS[kind] == names(PEFT_TYPE_TO_CONFIG_MAPPING[kind])


def test_lora_settings_hold_every_own_field_of_loraconfig():
    assert {field.name for field in dataclasses.fields(LoraSettings)} == names(peft.LoraConfig) - COMMON


def test_defaults_are_pefts():
    ours, theirs = parse_lora({}), peft.LoraConfig()
    plain = [name for name in sorted(names(peft.LoraConfig) - COMMON) if name not in {"loftq_config", "runtime_config"}]
    assert {name: getattr(ours, name) for name in plain} == {name: getattr(theirs, name) for name in plain}
