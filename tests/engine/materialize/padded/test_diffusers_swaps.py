"""diffusers' own hot swap takes the padded folders, rewritten for it, one after another, plain and compiled."""

import contextlib

import pytest
import torch
import torch._dynamo
from peft import PeftModel

from engine.compat.engines.target import parse_target
from engine.convert.rewrite.apply import apply_rewrites
from engine.convert.rewrite.plan import plan_rewrites
from engine.format.adapter import read_adapter
from engine.materialize.padded import write_padded
from tests.engine.model.live import lora_folder

pytestmark = pytest.mark.filterwarnings("ignore")


def numbers(*shapes):
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def unet():
    """One block down, one up."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(7)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}
    sizes = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8,), "norm_num_groups": 4}
    return UNet2DConditionModel(**blocks, **sizes, cross_attention_dim=12, attention_head_dim=4).eval()


def unet_inputs():
    sample, states = numbers((2, 4, 8, 8), (2, 5, 12))
    return {"sample": sample, "timestep": torch.tensor([1, 9]), "encoder_hidden_states": states}


def transformer():
    """Stable Diffusion 3's, with one block."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(7)
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8}
    heads = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    return SD3Transformer2DModel(**sizes, **heads, joint_attention_dim=12, pooled_projection_dim=6).eval()


def transformer_inputs():
    sample, states, pooled = numbers((2, 4, 8, 8), (2, 5, 12), (2, 6))
    told = {"hidden_states": sample, "encoder_hidden_states": states, "pooled_projections": pooled}
    return told | {"timestep": torch.tensor([1, 9])}


MODELS = {
    "unet": (unet, unet_inputs, ["to_q", "to_v", "conv1"], ["to_q", "to_out.0"]),
    "transformer": (transformer, transformer_inputs, ["to_q", "to_v", "proj"], ["to_q", "to_out.0", "add_k_proj"]),
}


def settings(name):
    first, second = MODELS[name][2:]
    return (
        {"r": 2, "lora_alpha": 5, "target_modules": first},
        {"r": 4, "lora_alpha": 3, "target_modules": second, "use_rslora": True},
    )


def out(model, name):
    with torch.no_grad():
        return model(**MODELS[name][1]()).sample


def for_diffusers(folder, to, name):
    """The adapter as diffusers reads it."""
    to.mkdir()
    apply_rewrites(plan_rewrites(read_adapter(folder), parse_target(f"diffusers:prefix={name}")), to)
    return to


def swap_in(model, folder, name, *, hotswap):
    weights = "adapter_model.safetensors"
    model.load_lora_adapter(folder, prefix=name, weight_name=weights, adapter_name="one", hotswap=hotswap)


CASES = [
    pytest.param("unet", False, id="unet"),
    pytest.param("unet", True, id="unet, compiled", marks=pytest.mark.slow),
    pytest.param("transformer", True, id="transformer, compiled"),
]


@pytest.mark.parametrize(("name", "compiled"), CASES)
def test_diffusers_swaps_one_padded_adapter_for_the_other(name, compiled, tmp_path):
    make = MODELS[name][0]
    plain = [lora_folder(tmp_path / f"{seed}", make(), seed=seed, **one) for seed, one in enumerate(settings(name))]
    ready = []
    for folder in plain:
        write_padded(folder, tmp_path / f"padded {folder.name}", rank=6, over=plain)
        ready.append(for_diffusers(tmp_path / f"padded {folder.name}", tmp_path / f"diffusers {folder.name}", name))
    wanted = [out(PeftModel.from_pretrained(make(), one).eval(), name) for one in plain]
    torch._dynamo.reset()
    model = make()
    model.enable_lora_hotswap(target_rank=6)
    swap_in(model, ready[0], name, hotswap=False)
    strict = contextlib.nullcontext()
    if compiled:
        model.compile(fullgraph=True, backend="eager")
        strict = torch._dynamo.config.patch(error_on_recompile=True, inline_inbuilt_nn_modules=False)

    with strict:
        found = [out(model, name)]
        for folder in (ready[1], ready[0]):
            swap_in(model, folder, name, hotswap=True)
            found.append(out(model, name))

    for one, expected in zip(found, (wanted[0], wanted[1], wanted[0]), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 0.1


def test_without_padding_diffusers_refuses_the_second(tmp_path):
    """The control: rewritten alone, the second has modules that the first has not."""
    plain = [lora_folder(tmp_path / f"{seed}", unet(), seed=seed, **one) for seed, one in enumerate(settings("unet"))]
    ready = [for_diffusers(folder, tmp_path / f"alone {folder.name}", "unet") for folder in plain]
    model = unet()
    model.enable_lora_hotswap(target_rank=6)
    swap_in(model, ready[0], "unet", hotswap=False)

    with pytest.raises(RuntimeError, match="unexpected keys"):
        swap_in(model, ready[1], "unet", hotswap=True)
