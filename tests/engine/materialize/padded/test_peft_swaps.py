"""PEFT's own hot swap takes the padded folders one after another, plain and compiled; the oracle is PEFT on each."""

import copy

import pytest
import torch
import torch._dynamo
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

from engine.errors import OptionError, RefusedError
from engine.format.adapter import read_adapter
from engine.materialize.padded import write_padded
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(12).reshape(2, 6)
pytestmark = pytest.mark.filterwarnings("ignore")
SETS = {
    "other ranks, targets and flavours": (
        {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"r": 5, "lora_alpha": 2, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
    ),
    "ranks and scalings by pattern": (
        {"r": 2, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.self_attn.v_proj": 1}},
        {"r": 6, "init_lora_weights": "gaussian"},
    ),
}

CASES = [
    pytest.param(case, compiled, id=f"{case}, {'compiled' if compiled else 'eager'}")
    for case in SETS
    for compiled in (False, True)
]
CASES[-1] = pytest.param(*CASES[-1].values, id=CASES[-1].id, marks=pytest.mark.slow)


def made(tmp_path, model, settings, **options):
    """The folders of a set, and each of them padded over all others."""
    folders = [lora_folder(tmp_path / f"{seed}", model, seed=seed, **one) for seed, one in enumerate(settings)]
    padded = [tmp_path / f"padded {folder.name}" for folder in folders]
    for folder, to in zip(folders, padded, strict=True):
        write_padded(folder, to, over=[other for other in folders if other is not folder], **options)
    return folders, padded


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def by_peft(folder):
    return logits(PeftModel.from_pretrained(llama(), folder).eval())


@pytest.mark.parametrize(("case", "compiled"), CASES)
def test_peft_swaps_any_padded_adapter_for_any_other(case, compiled, tmp_path):
    folders, padded = made(tmp_path, llama(), SETS[case], rank=8)
    wanted = [by_peft(folder) for folder in folders]
    torch._dynamo.reset()
    wrapped = PeftModel.from_pretrained(llama(), padded[0]).eval()
    prepare_model_for_compiled_hotswap(wrapped, target_rank=8)
    if compiled:
        wrapped.compile(fullgraph=True, backend="eager")
    strict = {"error_on_recompile": compiled, "inline_inbuilt_nn_modules": False}

    with torch._dynamo.config.patch(**strict):
        found = [logits(wrapped)]
        for folder in (padded[1], padded[0]):
            hotswap_adapter(wrapped, str(folder), "default", torch_device="cpu")
            found.append(logits(wrapped))

    for one, expected in zip(found, (wanted[0], wanted[1], wanted[0]), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 0.1


def test_without_padding_peft_refuses_that_set(tmp_path):
    """The control: the folders as they are do not swap."""
    folders, _ = made(tmp_path, llama(), SETS["other ranks, targets and flavours"], rank=8)
    wrapped = PeftModel.from_pretrained(llama(), folders[0]).eval()

    with pytest.raises(ValueError, match="use_rslora"):
        hotswap_adapter(wrapped, str(folders[1]), "default", torch_device="cpu")


def test_every_scaling_stays_bit_by_bit_where_the_modules_have_one(tmp_path):
    """alpha 7 at rank 3 with rsLoRA is 7 / sqrt(3); 1 / 3 at rank 3 is 4 / 12."""
    for name, settings in (("a", {"r": 3, "lora_alpha": 7, "use_rslora": True}), ("b", {"r": 3, "lora_alpha": 1})):
        folder = lora_folder(tmp_path / name, llama(), **settings)

        done = write_padded(folder, tmp_path / f"{name} 12", rank=12)

        scalings = {module.scaling for module in read_adapter(tmp_path / f"{name} 12").modules}
        assert scalings == {7 / 3**0.5 if name == "a" else 1 / 3}
        assert (done.rank, done.modules, done.zeros, done.rounded) == (12, 6, 0, 0)


def test_padding_adds_zeros_and_keeps_dtype_and_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = lora_folder(tmp_path / "a", llama(), r=2, target_modules=["q_proj"])
    other = lora_folder(tmp_path / "b", llama(), r=2, target_modules=["v_proj"])
    weights = folder / "adapter_model.safetensors"
    before = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(before, weights)

    done = write_padded(folder, tmp_path / "out", rank=5, over=[other])

    after = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    for name, tensor in before.items():
        corner = tuple(map(slice, tensor.shape))
        assert torch.equal(after[name][corner], tensor)
        assert after[name].count_nonzero() == tensor.count_nonzero()
    new = after.keys() - before.keys()
    assert {name.split(".")[6] for name in new} == {"v_proj"} and len(new) == 4
    assert not any(after[name].any() for name in new)
    assert (done.modules, done.zeros) == (4, 2)


def test_the_largest_rank_of_the_set_is_taken_where_none_is_named(tmp_path):
    _, padded = made(tmp_path, llama(), ({"r": 3}, {"r": 2, "rank_pattern": {"q_proj": 7}}))

    assert [read_adapter(folder).rank for folder in padded] == [7, 7]


def test_a_grouped_convolution_keeps_what_it_computes(tmp_path):
    """Of two groups each keeps its half of the ranks."""
    torch.manual_seed(3)
    plain = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.Conv2d(6, 4, 1)).eval()
    folder = lora_folder(tmp_path / "a", plain, r=2, lora_alpha=3, target_modules=["0", "1"])
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))

    write_padded(folder, tmp_path / "out", rank=6)

    found, expected = (
        PeftModel.from_pretrained(copy.deepcopy(plain), one).eval()(x) for one in (tmp_path / "out", folder)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (expected - plain(x)).abs().max() > 0.01


UNCARRIED = {
    "DoRA": ({"use_dora": True}, "DoRA magnitudes cannot be swapped"),
    "a saved module": ({"modules_to_save": ["lm_head"]}, "full copies of modules"),
    "an own bias": ({"bias": "all", "model": {"attention_bias": True}}, "biases of the base"),
    "an embedding": ({"target_modules": ["embed_tokens"]}, "adapts the embedding model.embed_tokens"),
    "trained tokens": ({"trainable_token_indices": {"embed_tokens": [1]}}, "embedding rows"),
    "a bias of B": ({"lora_bias": True}, "lora_bias cannot be hot-swapped"),
    "a parameter": ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, "of the parameter model.layers"),
    "an initialisation that changes the base": (
        {"init_lora_weights": "pissa"},
        "'pissa' changed the base|'pissa' changes the base",
    ),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication: expected one layout"),
    "another shape": (
        {"model": {"intermediate_size": 40}},
        "down_proj: .* adapts a linear weight .*32 x 4[08]|adapts a linear weight",
    ),
}


@pytest.mark.parametrize("case", UNCARRIED)
def test_what_no_hot_swap_carries_is_refused_by_name_in_any_place_of_the_set(case, tmp_path):
    settings, told = UNCARRIED[case]
    model = llama(**settings.get("model", {}))
    settings = {key: value for key, value in settings.items() if key != "model"}
    plain, other = lora_folder(tmp_path / "plain", llama()), lora_folder(tmp_path / "other", model, **settings)

    for adapter, over in ((other, [plain]), (plain, [other])):
        with pytest.raises(RefusedError, match=told):
            write_padded(adapter, tmp_path / "out", over=over)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rank", "error", "told"),
    [(3, RefusedError, "rank 3: expected at least 4"), (0, OptionError, "at least 1, found 0")],
)
def test_a_rank_below_the_adapters_own_is_refused(rank, error, told, tmp_path):
    folder = lora_folder(tmp_path / "a", llama())

    with pytest.raises(error, match=told):
        write_padded(folder, tmp_path / "out", rank=rank)
