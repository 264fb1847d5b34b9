"""`adapters convert` as a person uses it: PEFT's own pickled adapters, old ones of strangers, and hostile ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.convert.weights import inspect
from engine.format.files.header import read_header
from tests.engine.convert.hostile import CANARY, PICKLES
from tests.engine.convert.pickles import zipped

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared" / "corpus" / "weights"
# every folder of the corpus whose only weights are pickled, and its number of tensors by the names in its config
STRANGERS = {
    "huggingface__peft__examples__conditional_generation__bigscience__mt0-large_IA3_SEQ_2_SEQ_LM__c708345": 192,
    "huggingface__peft__tests__regression__adalora_mlp__0.6.1__28fe1f1": 3,
    "huggingface__peft__tests__regression__ia3_conv2d__0.6.1__28fe1f1": 1,
    "huggingface__peft__tests__regression__ia3_mlp__0.6.1__28fe1f1": 1,
    "huggingface__peft__tests__regression__lora_conv2d__0.6.1__28fe1f1": 2,
    "huggingface__peft__tests__regression__lora_emb_conv1d__0.6.1__28fe1f1": 4,
    "huggingface__peft__tests__regression__lora_mlp__0.6.1__28fe1f1": 2,
    "huggingface__peft__tests__regression__lora_mlp_modules_to_save__0.6.1__28fe1f1": 4,
}


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.lin0 = nn.Linear(12, 16)
        self.conv = Conv1D(10, 16)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(torch.relu(self.lin0(self.emb(x))))))


CONFIGS = {
    "lora": (LoraConfig(r=3, target_modules=["emb", "lin0", "conv"], modules_to_save=["head"]), torch.float32),
    "lora in bfloat16": (LoraConfig(r=2, target_modules=["lin0"], use_dora=True, bias="all"), torch.bfloat16),
    "ia3": (IA3Config(target_modules=["lin0", "conv"], feedforward_modules=["conv"]), torch.float16),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_peft_computes_the_same_with_the_converted_adapter(shell, work, case):
    config, dtype = CONFIGS[case]
    torch.manual_seed(0)
    base = Mlp().to(dtype)
    inputs = torch.arange(20).reshape(4, 5)
    state = {name: one.clone() for name, one in base.state_dict().items()}
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.normal_(std=0.5)
    expected = model.eval()(inputs)
    model.save_pretrained(work / "old", safe_serialization=False)

    shell.say("convert", "./old", "--to", "./new")

    assert sorted(path.name for path in (work / "new").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    fresh = Mlp().to(dtype)
    fresh.load_state_dict(state)
    plain = fresh.eval()(inputs)
    loaded = PeftModel.from_pretrained(fresh, work / "new", autocast_adapter_dtype=False).eval()
    assert torch.equal(loaded(inputs), expected)
    assert not torch.allclose(plain, expected)


def test_push_names_the_command_and_the_command_works(shell, work):
    """A person copies the hint, then pushes what it wrote."""
    shutil.rmtree(work / "two")
    (work / "one" / "adapter_model.safetensors").rename(work / "one" / "kept")
    torch.save({"base_model.model.a.lora_A.weight": torch.ones(2, 3)}, work / "one" / "adapter_model.bin")

    code, out, err = shell("push", "one", "team/old")

    assert (code, out) == (2, "")
    hint = err.splitlines()[-1].removeprefix("hint: adapters ")
    assert hint == "convert ./one --to ./one-safetensors"
    document = json.loads(shell.say(*hint.split(), "--format", "json"))
    assert set(document) == {"path", "converted", "left_out", "findings"}
    assert document["path"] == str(work / "one-safetensors")
    assert document["converted"] == [
        {
            "source": "adapter_model.bin",
            "path": "adapter_model.safetensors",
            "tensors": 1,
            "size": (work / "one-safetensors" / "adapter_model.safetensors").stat().st_size,
        }
    ]
    assert (document["left_out"], document["findings"]) == (["kept"], [])
    assert read_header(work / "one-safetensors" / "adapter_model.safetensors").tensors.keys() == {
        "base_model.model.a.lora_A.weight"
    }
    shell.refused(*hint.split(), code=5, named="exists already")


def test_a_hostile_pickle_is_refused_in_one_line(shell, work):
    Path(CANARY).unlink(missing_ok=True)
    shutil.copytree(work / "one", work / "evil")
    (work / "evil" / "adapter_model.safetensors").unlink()
    for case in ("GLOBAL os.system", "INST", "eval, protocol 2", "a name of a megabyte", "no such opcode"):
        (work / "evil" / "adapter_model.bin").write_bytes(zipped(PICKLES[case][0]))

        line = shell.refused(
            "convert", "./evil", "--to", "./new", code=2, named="evil/adapter_model.bin: not loadable here: "
        )

        assert PICKLES[case][2] is None or PICKLES[case][2] in line
    assert not (work / "new").exists()
    assert not Path(CANARY).exists()


def test_a_reference_and_nothing_are_refused(shell):
    shell.refused("convert", "team/sql", "--to", "./new", code=2, named="expected a folder")
    shell.refused("convert", "./nothing", "--to", "./new", code=2, named="nothing: No such file")
    shell.refused("convert", "./one", code=2, named="--to")
    shell.refused("convert", "./one", "--to", "hf://org/x", code=2, named="from folder to folder")
    shell.refused("convert", "./one", "--to", "./new", code=2, named="nothing needs converting")


def _hint(shell, *words):
    code, _, err = shell(*words)
    assert code == 2
    (hint,) = [line for line in err.splitlines() if line.startswith("hint: ")]
    return hint.removeprefix("hint: ")


def test_a_refusal_names_the_next_command(shell, work):
    """What is safetensors is pushed, what lies below is converted there, what cannot be loaded is saved anew."""
    (work / "nested").mkdir()
    shutil.copytree(work / "one", work / "nested" / "in")
    shutil.copytree(work / "one", work / "empty")
    (work / "empty/adapter_model.safetensors").unlink()
    torch.save({}, work / "empty/adapter_model.bin")

    assert _hint(shell, "convert", "./one", "--to", "./new") == "adapters push ./one NAME"
    assert (
        _hint(shell, "convert", "./nested", "--to", "./new")
        == "adapters convert ./nested/in --to ./nested/in-safetensors"
    )
    assert _hint(shell, "convert", "empty", "--to", "./new").endswith("adapters convert ./empty --to ./new")
    assert _hint(shell, "convert", "./empty", "--to", "./new").endswith("then adapters push DIR NAME")
    shell.refused("convert", "./empty", "--to", "./new", code=2, named="empty dictionary")
    assert not (work / "new").exists()


def test_torch_is_not_imported_by_the_command_itself(shell, work):
    """The pickle is refused before any process starts, and the caller's process never needs torch."""
    (work / "one" / "adapter_model.safetensors").unlink()
    (work / "one" / "adapter_model.bin").write_bytes(zipped(PICKLES["GLOBAL os.system"][0]))
    program = (
        "import sys; from registry.cli.failure import run; code = run(['convert', './one', '--to', './new']);"
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "2 False False\n"


needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of strangers' adapters is not here")


@needs_corpus
def test_no_pickled_adapter_of_the_corpus_is_forgotten():
    found = {
        path.parent.name
        for path in CORPUS.glob("*/adapter_model.bin")
        if not (path.parent / "adapter_model.safetensors").exists()
    }

    assert found == STRANGERS.keys()


@needs_corpus
@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_adapters_are_read(name):
    found = inspect(memoryview((CORPUS / name / "adapter_model.bin").read_bytes()), name)

    assert len(found.tensors) == STRANGERS[name]
    assert {one.dtype for one in found.tensors.values()} == {"F32"}


def _same(shell, work, name):
    document = json.loads(shell.say("convert", str(CORPUS / name), "--to", f"./{name}", "--format", "json"))
    assert document["converted"][0]["tensors"] == STRANGERS[name]
    expected = torch.load(CORPUS / name / "adapter_model.bin", map_location="cpu", weights_only=True)
    with_ours = _load(work / name / "adapter_model.safetensors")
    assert expected.keys() == with_ours.keys()
    assert all(torch.equal(expected[key], with_ours[key]) for key in expected)


def _load(path):
    from safetensors.torch import load_file

    return load_file(path)


@needs_corpus
def test_the_largest_of_them_is_converted(shell, work):
    _same(shell, work, next(iter(STRANGERS)))


@needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", list(STRANGERS)[1:])
def test_each_of_them_is_converted(shell, work, name):
    _same(shell, work, name)
