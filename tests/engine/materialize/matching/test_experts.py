"""Experts of a mixture: fused in the model, one by one or fused on disk, adapted either way."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from engine.errors import RefusedError
from engine.materialize.matching.seats import TURNED_EXPERTS
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model.live import lora_folder
from tests.engine.model.test_replaced import SMALL, gpt_oss, mixtral, qwen3_moe

EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
FAMILIES = {"mixtral": mixtral, "qwen3_moe": qwen3_moe, "gpt_oss": gpt_oss}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A model, its base on disk, two adapters of other ranks."""
    folder, model = tmp_path_factory.mktemp(request.param), FAMILIES[request.param]()
    first = lora_folder(folder / "a", model, seed=1, **EXPERTS)
    second = lora_folder(folder / "b", model, seed=2, r=2, lora_alpha=5, use_rslora=True, **EXPERTS)
    return model, saved(model, folder / "base"), [first, second]


@pytest.mark.parametrize("count", [1, 2])
def test_factors_of_all_experts_reach_each(family, tmp_path, count):
    model, base, folders = family
    expected = out(beside(model, folders[:count]))
    done = merged(base, folders[:count], tmp_path / "out")
    close(out(type(model).from_pretrained(done)), expected, 1e-5)
    assert tensors(done).keys() == tensors(base).keys()


def test_experts_fused_on_disk_take_the_same_factors(tmp_path):
    model = mixtral()
    folder = lora_folder(tmp_path / "a", model, **EXPERTS)
    base = saved(model, tmp_path / "base", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in tensors(base)
    done = merged(base, [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])), 1e-5)


def by_expert(folder, base):
    """An adapter of transformers 4 for each expert by itself, and what it makes of each weight on disk (float64)."""
    chance = torch.Generator().manual_seed(5)
    found, expected = {}, {}
    for name, W in tensors(base).items():
        if ".experts." in name and ".layers.1." in name:
            A, B = (torch.randn(*shape, generator=chance) for shape in ((3, W.shape[1]), (W.shape[0], 3)))
            module = f"base_model.model.{name.removesuffix('.weight')}"
            found |= {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B}
            expected[name] = W.double() + 2.0 * B.double() @ A.double()
    folder.mkdir()
    save_file(found, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["w1", "w2", "w3"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return expected


def test_factors_of_single_experts_reach_single_experts(tmp_path):
    base = saved(mixtral(), tmp_path / "base")
    expected = by_expert(tmp_path / "a", base)
    found = tensors(merged(base, [tmp_path / "a"], tmp_path / "out"))
    assert len(expected) == 12
    for name, before in tensors(base).items():
        if name in expected:
            close(found[name].double(), expected[name], 1e-6)
        else:
            assert torch.equal(found[name], before)


def test_factors_of_single_experts_reach_fused_ones(tmp_path):
    model = mixtral()
    expected = by_expert(tmp_path / "a", saved(model, tmp_path / "base"))
    base = saved(model, tmp_path / "fused", save_original_format=False)
    found = tensors(merged(base, [tmp_path / "a"], tmp_path / "out"))
    layer = "model.layers.1.block_sparse_moe.experts"
    gate_up = [torch.cat([expected[f"{layer}.{one}.{part}.weight"] for part in ("w1", "w3")]) for one in range(4)]
    close(found["model.layers.1.mlp.experts.gate_up_proj"].double(), torch.stack(gate_up), 1e-6)
    down = torch.stack([expected[f"{layer}.{one}.w2.weight"] for one in range(4)])
    close(found["model.layers.1.mlp.experts.down_proj"].double(), down, 1e-6)
    before = tensors(base)
    rest = [name for name in before if "layers.1.mlp.experts" not in name]
    assert all(torch.equal(found[name], before[name]) for name in rest)


def test_factors_as_peft_before_0_19_laid_them_are_refused_by_name(tmp_path):
    """down_proj is (experts, 32, 48) here: since 0.19 A has 48 columns, before it had 32."""
    model = mixtral()
    folder = lora_folder(tmp_path / "a", model, target_modules=[], target_parameters=["experts.down_proj"])
    held = load_file(folder / "adapter_model.safetensors")
    turned = {name: torch.zeros(16, 32) if "lora_A" in name else torch.zeros(48, 16) for name in held}
    save_file(turned, folder / "adapter_model.safetensors")
    with pytest.raises(RefusedError, match="those of experts") as refused:
        merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    assert {finding.rule for finding in refused.value.findings} == {"expert-layout"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("version", "refused"), [("0.18.1", True), ("0.19.0", False)])
def test_square_experts_are_told_apart_by_the_number_of_peft(tmp_path, version, refused):
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**{**SMALL, "intermediate_size": 32}, num_local_experts=4))
    folder = lora_folder(tmp_path / "a", model, target_modules=[], target_parameters=["experts.down_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_version": version}))
    base = saved(model, tmp_path / "base")
    if refused:
        with pytest.raises(RefusedError, match="those of experts"):
            merged(base, [folder], tmp_path / "out")
    else:
        merged(base, [folder], tmp_path / "out")


def test_factors_that_fit_no_expert_are_refused_with_the_shapes(tmp_path):
    model = mixtral()
    folder = lora_folder(tmp_path / "a", model, **EXPERTS)
    held = load_file(folder / "adapter_model.safetensors")
    (name,) = [one for one in held if "layers.0.mlp.experts.lora_A" in one]
    save_file(held | {name: torch.zeros(16, 47)}, folder / "adapter_model.safetensors")
    with pytest.raises(RefusedError) as refused:
        merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    (message,) = [finding.message for finding in refused.value.findings]
    assert message == (
        "layers.0.mlp.experts.down_proj: expected factors of [16, 48] and [32, 16], found [16, 47] and [32, 16]"
    )


def test_families_whose_experts_are_turned_are_those_of_transformers():
    """The decorator that says so, in every model of the installed transformers."""
    root = Path(transformers.__file__).parent / "models"
    said = {file.parent.name for file in root.glob("*/modeling_*.py") if "is_transposed=True" in file.read_text()}
    assert said | {"aria_text"} == TURNED_EXPERTS


class Attention(nn.Module):
    """torch's attention with a norm before it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(12)
        self.mha = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x):
        x = self.norm(x)
        return self.mha(x, x, x)[0]


def test_both_projections_of_torchs_attention(tmp_path):
    """The output projection gets twice its change, as PEFT's forward and its merge both have it."""
    model, x = Attention().eval(), torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    folder = lora_folder(tmp_path / "a", model, target_modules=["mha"])
    (tmp_path / "base").mkdir()
    save_file(model.state_dict(), tmp_path / "base" / "model.safetensors")
    found = Attention().eval()
    found.load_state_dict(tensors(merged(tmp_path / "base", [folder], tmp_path / "out")))
    close(out(found, x), out(beside(model, [folder]), x))
    again = Attention().eval()
    again.load_state_dict(PeftModel.from_pretrained(Attention(), folder).merge_and_unload().state_dict())
    close(out(found, x), out(again, x))


def qwen3_vl():
    """Fused experts (experts, out, in), of which the published checkpoints have the last two turned."""
    torch.manual_seed(0)
    text = {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": []}  # fmt: skip
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config=vision)
    return transformers.Qwen3VLMoeForConditionalGeneration(config).eval()


def published(model, folder):
    held = {
        name: one.mT.contiguous() if ".experts." in name else one for name, one in tensors(saved(model, folder)).items()
    }
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("write", [saved, published])
def test_fused_experts_that_may_lie_turned_on_disk(tmp_path, write):
    model = qwen3_vl()
    folder = lora_folder(tmp_path / "a", model, **EXPERTS)
    base = write(model, tmp_path / "base")
    done = merged(base, [folder], tmp_path / "out")
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    assert tensors(done)[name].shape == ((4, 24, 32) if write is published else (4, 32, 24))
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])), 1e-5)


def test_a_copy_of_experts_that_lie_turned_is_refused_by_name(tmp_path):
    model = qwen3_vl()
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], modules_to_save=["layers.0.mlp.experts"])
    with pytest.raises(RefusedError) as refused:
        merged(published(model, tmp_path / "base"), [folder], tmp_path / "out")
    assert {finding.rule for finding in refused.value.findings} == {"own-kind"}
    assert "which holds a part of it" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_copy_of_experts_comes_apart_into_each(tmp_path):
    model = mixtral()
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], modules_to_save=["layers.1.mlp.experts"])
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])), 1e-5)
    held = load_file(folder / "adapter_model.safetensors")
    (copy,) = [one for name, one in held.items() if name.endswith("layers.1.mlp.experts.gate_up_proj")]
    assert torch.equal(tensors(done)["model.layers.1.block_sparse_moe.experts.2.w3.weight"], copy[2, 48:])
