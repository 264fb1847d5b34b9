"""What the reference library writes passes, alone and against its base."""

import copy
from pathlib import Path

import pytest

from engine.compat.check import check_adapter
from engine.errors import UnreadableError
from engine.format.adapter import read_adapter
from engine.format.base import read_base
from engine.format.numbers.values import scan_values

pytest.importorskip("peft")

from tests.engine.compat.peft_adapters import CASES, save_adapter, save_base

CORPUS = Path(__file__).parents[3].parent / "shared" / "corpus" / "weights"


def _errors(findings):
    return [(finding.rule, finding.message) for finding in findings if finding.severity == "error"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root, read = tmp_path_factory.mktemp("bases"), {}

    def base_of(make):
        if make not in read:
            read[make] = read_base(save_base(make, root / str(len(read))))
        return read[make]

    return base_of


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_the_reference_library_has_no_error(case, tmp_path, bases):
    make, base_make, config = CASES[case]
    facts = read_adapter(save_adapter(make, copy.deepcopy(config), tmp_path / "adapter"))
    base = None if base_make is None else bases(base_make)

    assert _errors(check_adapter(facts, values=scan_values(facts), base=base)) == []
    assert _errors(check_adapter(facts)) == []


def test_a_conv1d_of_transformers_fits_a_base_of_unknown_type(tmp_path, bases):
    make, _, config = CASES["conv1d-of-transformers"]
    facts = read_adapter(save_adapter(make, copy.deepcopy(config), tmp_path / "adapter"))

    assert facts.config.raw["fan_in_fan_out"] is True
    assert _errors(check_adapter(facts, base=bases(make))) == []


def test_a_resized_vocabulary_is_a_warning(tmp_path, bases):
    make, base_make, config = CASES["vocabulary-resized"]
    facts = read_adapter(save_adapter(make, copy.deepcopy(config), tmp_path / "adapter"))

    found = {finding.rule: finding.severity for finding in check_adapter(facts, base=bases(base_make))}

    assert found["base-resized"] == "warning"


def test_strangers_adapters_have_no_error():
    if not CORPUS.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")
    checked = 0
    for folder in sorted(CORPUS.iterdir()):
        try:
            facts = read_adapter(folder)
        except UnreadableError:
            continue
        assert _errors(check_adapter(facts, values=scan_values(facts), base_known=False)) == [], folder.name
        checked += 1

    assert checked >= 13


def test_a_strangers_adapter_fits_the_base_it_names():
    if not CORPUS.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")
    facts = read_adapter(CORPUS / "ironhack-labs__lab-lora-tuning-peft__peft_lab_outputs__checkpoint-14__85a98b0")
    base = read_base(CORPUS / "base-checkpoints" / "sshleifer__tiny-gpt2")

    assert _errors(check_adapter(facts, base=base)) == []
