"""A head that an adapter brings stays in full where the rest is packed, and transformers loads it so."""

import json
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from engine.materialize import Request, Source, materialize
from engine.materialize.verify import verify

IDS = torch.tensor([[5, 6, 7, 8]])
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "pad_token_id": 0,
}
MODELS = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), ["q_proj"]),
    "bert": (lambda: BertModel(BertConfig(**SIZES)), ["query"]),
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=96, n_positions=16, pad_token_id=0)
        ),
        ["c_attn"],
    ),
}
PACKED = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
SKIPPED = {"llama": None, "gpt2": None, "bert": ["classifier.bias", "classifier"]}
"""Transformers' own rule spares Llama's and GPT-2's `score`; of BERT's head, whose last parameter is a bias, nothing."""
HEADS = {"llama": "score", "gpt2": "score", "bert": "classifier"}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request, tmp_path_factory):
    """A family, with its base, an adapter that brings a head, and PEFT's merged model."""
    folder = tmp_path_factory.mktemp("heads")
    make, targets = MODELS[request.param]
    torch.manual_seed(0)
    make().save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headed = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=3)
        config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=targets, init_lora_weights=False)
        wrapped = get_peft_model(headed, config)
        wrapped.save_pretrained(folder / "adapter")
        wrapped.merge_and_unload().save_pretrained(folder / "theirs")
    return request.param, folder


def made(folder, base, to, **options):
    materialize(Request(base=base, sources=(Source(folder / "adapter"),), **options), to)
    return to


def loaded(folder, **options):
    """What transformers loads, without a word of what is missing or left over."""
    found, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True, **options)
    assert {key: list(names) for key, names in told.items() if names} == {}
    return found.eval()


def logits(found):
    with torch.inference_mode():
        return found(IDS).logits.float()


def quantised(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def head_of(folder):
    every = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): one for name, one in every.items() if "lora_" not in name}


def check_head(folder, result, name):
    """Transformers loads the adapter's own head, in full."""
    found = loaded(result)
    assert type(found.get_submodule(HEADS[name])) is torch.nn.Linear
    for path, one in head_of(folder).items():
        assert torch.equal(found.get_parameter(path).float(), one)
    return found


@pytest.mark.parametrize("kind", list(PACKED))
def test_a_head_stays_in_full_and_the_rest_is_packed_as_the_library_does(model, kind, tmp_path):
    name, folder = model
    result = made(folder, folder / "base", tmp_path / "out", quantize=kind)
    found = check_head(folder, result, name)
    assert quantised(result)["llm_int8_skip_modules"] == SKIPPED[name]
    theirs = BitsAndBytesConfig(**PACKED[kind], llm_int8_skip_modules=SKIPPED[name])
    assert torch.equal(logits(found), logits(loaded(folder / "theirs", quantization_config=theirs)))


@pytest.mark.parametrize("kind", list(PACKED))
def test_a_packed_base_gets_its_head(model, kind, tmp_path):
    """Packed again it keeps the base's own packing, under the names of the other class; plain, all is plain."""
    name, folder = model
    auto = AutoModel if name == "bert" else type(MODELS[name][0]())
    auto.from_pretrained(folder / "base", quantization_config=BitsAndBytesConfig(**PACKED[kind])).save_pretrained(
        tmp_path / "base"
    )
    again = made(folder, tmp_path / "base", tmp_path / "again", quantize=kind, lossy=True)
    check_head(folder, again, name)
    assert quantised(again)["llm_int8_skip_modules"] == SKIPPED[name]
    flat = made(folder, tmp_path / "base", tmp_path / "flat", dtype="float32")
    assert "quantization_config" not in json.loads((flat / "config.json").read_text())
    check_head(folder, flat, name)
    verify(again, tmp_path / "base", [Source(folder / "adapter")])


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_base_that_names_what_it_spares_spares_the_head_too(tmp_path, model):
    name, folder = model
    shutil.copytree(folder / "base", tmp_path / "full")
    packing = BitsAndBytesConfig(**PACKED["nf4"], llm_int8_skip_modules=["lm_head", "v_proj"])
    packed = LlamaForCausalLM.from_pretrained(tmp_path / "full", quantization_config=packing)
    packed.save_pretrained(tmp_path / "base")
    again = made(folder, tmp_path / "base", tmp_path / "again", quantize="nf4", lossy=True)
    assert quantised(again)["llm_int8_skip_modules"] == ["lm_head", "v_proj", "score"]
    found = check_head(folder, again, name)
    assert type(found.model.layers[0].self_attn.v_proj) is torch.nn.Linear
    assert type(found.model.layers[0].self_attn.k_proj) is not torch.nn.Linear
