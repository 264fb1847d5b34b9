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
SETTINGS = (
    {"r": 2, "lora_alpha": 5, "target_modules": ["to_q", "to_v", "conv1"]},
    {"r": 4, "lora_alpha": 3, "target_modules": ["to_q", "to_out.0"], "use_rslora": True},
)


def small_unet():
    """One block down, one up: as many kinds of modules as there are, compiled in seconds."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(7)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def out(unet):
    generator = torch.Generator().manual_seed(9)
    sample, states = (torch.randn(*shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 12)))
    with torch.no_grad():
        return unet(sample, torch.tensor([1, 9]), states).sample


@pytest.fixture
def folders(tmp_path):
    """Two adapters of a UNet, and each padded over both, as diffusers reads it."""
    unet = small_unet()
    plain = [lora_folder(tmp_path / f"{seed}", unet, seed=seed, **one) for seed, one in enumerate(SETTINGS)]
    ready = []
    for folder in plain:
        write_padded(folder, tmp_path / f"padded {folder.name}", rank=6, over=plain)
        ready.append(tmp_path / f"diffusers {folder.name}")
        ready[-1].mkdir()
        facts = read_adapter(tmp_path / f"padded {folder.name}")
        apply_rewrites(plan_rewrites(facts, parse_target("diffusers:prefix=unet")), ready[-1])
    return plain, ready


def swap_in(unet, folder, *, hotswap):
    name = "adapter_model.safetensors"
    unet.load_lora_adapter(folder, prefix="unet", weight_name=name, adapter_name="one", hotswap=hotswap)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_diffusers_swaps_one_padded_adapter_for_the_other(compiled, folders):
    plain, ready = folders
    wanted = [out(PeftModel.from_pretrained(small_unet(), one).eval()) for one in plain]
    torch._dynamo.reset()
    unet = small_unet()
    unet.enable_lora_hotswap(target_rank=6)
    swap_in(unet, ready[0], hotswap=False)
    strict = contextlib.nullcontext()
    if compiled:
        unet.compile(fullgraph=True, backend="eager")
        strict = torch._dynamo.config.patch(error_on_recompile=True, inline_inbuilt_nn_modules=False)

    with strict:
        found = [out(unet)]
        for folder in (ready[1], ready[0]):
            swap_in(unet, folder, hotswap=True)
            found.append(out(unet))

    for one, expected in zip(found, (wanted[0], wanted[1], wanted[0]), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 0.1


def test_without_padding_diffusers_refuses_the_second(folders):
    """The control: rewritten alone, the second has modules that the first has not."""
    plain, _ = folders
    ready = []
    for folder in plain:
        ready.append(folder.with_name(f"alone {folder.name}"))
        ready[-1].mkdir()
        apply_rewrites(plan_rewrites(read_adapter(folder), parse_target("diffusers:prefix=unet")), ready[-1])
    unet = small_unet()
    unet.enable_lora_hotswap(target_rank=6)
    swap_in(unet, ready[0], hotswap=False)

    with pytest.raises(RuntimeError, match="unexpected keys"):
        swap_in(unet, ready[1], hotswap=True)
