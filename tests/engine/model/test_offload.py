"""Models whose weights accelerate keeps elsewhere, and models that are cast after adapters were loaded."""

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from peft import PeftModel

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(18).reshape(3, 6)
NAMES = ["a", "__base__", "b"]
MAP = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def _to_disk(model, folder):
    dispatch_model(model, MAP, main_device="cpu", offload_dir=folder, force_hooks=True)


def _to_host(model, _folder):
    cpu_offload(model)


def _logits(model, **inputs):
    with torch.inference_mode():
        return model(IDS, use_cache=False, **inputs).logits.clone()


def _folders(tmp_path):
    """LoRA with norms of the base weight, full copies, factors of a single parameter and of the output layer."""
    settings = {
        "a": {"use_dora": True, "modules_to_save": ["norm"], "target_modules": ["q_proj", "lm_head", "down_proj"]},
        "b": {
            "target_modules": ["up_proj"],
            "target_parameters": ["o_proj.weight"],
            "modules_to_save": ["embed_tokens"],
        },
    }
    return {name: lora_folder(tmp_path / name, llama(), seed=ord(name), **one) for name, one in settings.items()}


def _loaded(model, folders):
    runtime = Runtime(model)
    for name, folder in folders.items():
        runtime.load(name, folder)
    return runtime


@pytest.mark.parametrize("offload", [_to_host, _to_disk])
@pytest.mark.filterwarnings("ignore")
def test_offloaded_weights_give_the_same_bits(tmp_path, offload):
    folders = _folders(tmp_path)
    plain = _loaded(llama(), folders)
    model = llama()
    offload(model, tmp_path / "weights")
    assert model.lm_head.weight.is_meta and model.model.layers[1].mlp.up_proj.weight.is_meta

    runtime = _loaded(model, folders)

    for name in ("a", "b"):
        plain.activate(name)
        runtime.activate(name)
        assert torch.equal(_logits(model), _logits(plain.model))
    assert torch.equal(_logits(runtime, adapter_names=NAMES), _logits(plain, adapter_names=NAMES))
    assert model.lm_head.weight.is_meta


@pytest.mark.filterwarnings("ignore")
def test_detaching_leaves_accelerates_own_forward(tmp_path):
    model = llama()
    cpu_offload(model)
    before = {
        path: (module.__dict__.get("forward"), module.__dict__.get("_old_forward"))
        for path, module in model.named_modules()
    }
    base = _logits(model)
    runtime = _loaded(model, _folders(tmp_path))

    runtime.detach()

    after = {
        path: (module.__dict__.get("forward"), module.__dict__.get("_old_forward"))
        for path, module in model.named_modules()
    }
    assert after == before
    assert torch.equal(_logits(model), base)


@pytest.mark.filterwarnings("ignore")
def test_hooks_that_go_while_adapters_are_on_take_nothing_along(tmp_path):
    folders = _folders(tmp_path)
    model = llama()
    dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    runtime = _loaded(model, folders)
    runtime.activate("a")
    expected = _logits(model)

    remove_hook_from_submodules(model)

    assert torch.equal(_logits(model), expected)
    runtime.detach()
    assert all(module.forward.__func__ is type(module).forward for module in model.modules())


@pytest.mark.filterwarnings("ignore")
def test_merging_into_offloaded_weights_is_refused(tmp_path):
    model = llama()
    cpu_offload(model)
    runtime = _loaded(model, _folders(tmp_path))

    with pytest.raises(RefusedError, match="wait on the host or a disk until it is called"):
        runtime.merge("a")

    assert runtime.merged == ()


def test_casting_the_model_leaves_the_factors_and_rounds_once(tmp_path):
    """`model.to(dtype)` casts the base alone, as PEFT keeps its factors in float32 over a half-precision base."""
    folder = lora_folder(tmp_path / "a", llama(), modules_to_save=["norm"])
    runtime = Runtime(llama())
    runtime.load("a", folder)
    runtime.activate("a")
    wrapped = PeftModel.from_pretrained(llama().bfloat16(), folder)
    truth = _logits(PeftModel.from_pretrained(llama().bfloat16().double(), folder, autocast_adapter_dtype=False))

    runtime.model.to(torch.bfloat16)

    found = _logits(runtime.model)
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).abs().mean() <= 1.05 * (_logits(wrapped).double() - truth).abs().mean()
