"""Strangers' files: every LoRA configuration and every safetensors file that peft reads, reads here."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import safetensors

from engine.errors import ConfigError, UnreadableError
from engine.format.adapter import read_adapter
from engine.format.configs.config import read_config
from engine.format.files.header import read_header

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus ../shared/corpus is not here")

CONFIGS = sorted(CORPUS.glob("configs/*.json")) + sorted(CORPUS.glob("weights/*/adapter_config.json"))
WEIGHTS = sorted(CORPUS.rglob("*.safetensors"))
FOREIGN = {
    "001": "AdapterHub",
    "002": "AdapterHub",
    "049": "MLX",
    "056": "MLX",
    "074": "MLX",
    "076": "MLX",
    "077": "MLX",
}


def label(path):
    return str(path.relative_to(CORPUS))


@pytest.mark.parametrize("path", CONFIGS, ids=label)
def test_configuration_reads_or_is_named(path):
    kind = json.loads(path.read_text()).get("peft_type")
    if kind is None:
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert caught.value.kind == FOREIGN.get(path.stem, "MLX")
    else:
        config = read_config(path)
        assert (config.peft_type, config.lora is not None) == (kind, kind == "LORA")


def test_all_117_lora_configurations_read():
    documents = [json.loads(path.read_text()) for path in CORPUS.glob("configs/*.json")]
    assert sum(document.get("peft_type") == "LORA" for document in documents) == 117


def test_what_peft_loads_reads_here(tmp_path):
    """Every configuration that peft loads, with the same rank and alpha."""
    peft = pytest.importorskip("peft", reason="the oracle is not installed")
    loaded = 0
    for path in CONFIGS:
        shutil.copyfile(path, tmp_path / "adapter_config.json")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = peft.PeftConfig.from_pretrained(str(tmp_path))
        except (KeyError, ValueError, TypeError, ImportError):
            continue
        loaded += 1
        ours = read_config(path)
        assert ours.peft_type == theirs.peft_type.value
        if ours.lora is not None:
            assert (ours.lora.r, ours.lora.lora_alpha) == (theirs.r, theirs.lora_alpha)
    assert loaded >= 300


@pytest.mark.parametrize("path", WEIGHTS, ids=label)
def test_safetensors_file_reads_as_in_the_library(path):
    header = read_header(path)
    with safetensors.safe_open(path, "np") as file:
        expected = {
            name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
            for name in list(file.keys())
        }
    assert {info.name: (info.dtype, info.shape) for info in header.tensors.values()} == expected


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in CORPUS.glob("weights/*/adapter_config.json")), ids=label
)
def test_real_adapters_raise_no_false_alarm(folder):
    """Nothing is unmatched or incomplete in an adapter that somebody really trained."""
    if (folder / "adapter_model.bin").exists():
        with pytest.raises(UnreadableError, match="pickle weights are never opened"):
            read_adapter(folder)
    elif (folder / "adapter_model.safetensors").exists():
        facts = read_adapter(folder)
        assert (facts.unmatched, facts.incomplete) == ((), {})
        assert bool(facts.modules) == (facts.config.peft_type == "LORA")
    else:
        with pytest.raises(ConfigError, match="MLX"):
            read_adapter(folder)
