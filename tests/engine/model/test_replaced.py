"""Adapters on tensors themselves, against PEFT: attention blocks, experts, any matrix, full copies."""

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from engine.errors import BatchError, RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.live import LLAMA, llama, lora_folder

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
IDS = torch.arange(18).reshape(3, 6)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""float32: W+ΔW and sums over experts are taken in another order than PEFT's."""


class Attention(nn.Module):
    """Attention between two linear layers; inputs are (rows, length, 12) either way."""

    def __init__(self, *, batch_first):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(12, 12)
        self.mha = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.last = nn.Linear(12, 5)
        self.batch_first = batch_first

    def forward(self, x, need_weights=True, **masks):
        h = self.first(x)
        h = h if self.batch_first else h.transpose(0, 1)
        h, weights = self.mha(h, h, h, need_weights=need_weights, **masks)
        h = h if self.batch_first else h.transpose(0, 1)
        return self.last(h), weights


class Matrices(nn.Module):
    """Parameters of two and three dimensions, used by their own module's forward."""

    def __init__(self, *, transposed=False):
        super().__init__()
        torch.manual_seed(4)
        self.matrix = Matrix()
        self.experts = Experts(transposed=transposed)

    def forward(self, x):
        return self.experts(self.matrix(x))


class Matrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(10, 8))

    def forward(self, x):
        return x @ self.W.t()


class Experts(nn.Module):
    def __init__(self, *, transposed):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 10, 6) if transposed else torch.randn(3, 6, 10))
        self.bias = nn.Parameter(torch.randn(3, 6))
        self.down = nn.Parameter(torch.randn(3, 6, 7) if transposed else torch.randn(3, 7, 6))
        self.is_transposed = transposed

    def forward(self, x):
        up, down = (self.up, self.down) if self.is_transposed else (self.up.mT, self.down.mT)
        h = torch.einsum("...i,eio->...eo", x, up) + self.bias
        return torch.einsum("...ei,eio->...o", h.tanh(), down)


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4)).eval()


def qwen3_moe():
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    ).eval()


def gpt_oss():
    torch.manual_seed(0)
    model = GptOssForCausalLM(
        GptOssConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=4)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


def classifier():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(LlamaConfig(**LLAMA, num_labels=3, pad_token_id=0)).eval()


def _out(result):
    return result[0] if isinstance(result, tuple) else getattr(result, "logits", result)


def _run(model, x, **inputs):
    with torch.inference_mode():
        return _out(model(x, **inputs)).clone()


def _peft(model, folder, x, **inputs):
    return _run(PeftModel.from_pretrained(copy.deepcopy(model), folder), x, **inputs)


def _loaded(tmp_path, make, x, configs, **inputs):
    """A runtime with an adapter per config, and PEFT's result for each name."""
    model = make()
    expected = {"__base__": _run(model, x, **inputs)}
    for seed, config in enumerate(configs):
        folder = lora_folder(tmp_path / f"a{seed}", model, seed=seed + 1, **config)
        expected[f"a{seed}"] = _peft(model, folder, x, **inputs)
    runtime = Runtime(model)
    for name in expected:
        if name != "__base__":
            runtime.load(name, tmp_path / name)
    return runtime, expected


def _hold(runtime, expected, x, **inputs):
    """Every name alone and all in one batch give PEFT's rows; the base's rows keep their bits."""
    for name in runtime.adapters:
        assert (expected[name] - expected["__base__"]).abs().max() > 1e-2
        runtime.activate(name)
        torch.testing.assert_close(_run(runtime, x, **inputs), expected[name], **CLOSE)
    runtime.activate(None)
    assert torch.equal(_run(runtime, x, **inputs), expected["__base__"])
    names = [("a1", "__base__", "a0")[row % 3] for row in range(len(x))]
    found = _run(runtime, x, adapter_names=names, **inputs)
    for row, name in enumerate(names):
        if name == "__base__":
            assert torch.equal(found[row], expected[name][row])
        else:
            torch.testing.assert_close(found[row], expected[name][row], **CLOSE)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_with_both_projections_adapted(tmp_path, batch_first, need_weights):
    x = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(0))
    configs = [{"target_modules": ["mha"]}, {"target_modules": ["mha", "first"], "r": 2, "use_rslora": True}]

    runtime, expected = _loaded(
        tmp_path, lambda: Attention(batch_first=batch_first).eval(), x, configs, need_weights=need_weights
    )

    _hold(runtime, expected, x, need_weights=need_weights)


def test_rows_of_attention_keep_their_own_masks(tmp_path):
    x = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(0))
    padding = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    mask = torch.randn(9, 4, 4, generator=torch.Generator().manual_seed(1))
    masks = {"key_padding_mask": torch.zeros(3, 4).masked_fill(padding, float("-inf")), "attn_mask": mask}
    configs = [{"target_modules": ["mha"]}, {"target_modules": ["mha"], "r": 2}]

    runtime, expected = _loaded(tmp_path, lambda: Attention(batch_first=False).eval(), x, configs, **masks)

    _hold(runtime, expected, x, **masks)


@pytest.mark.parametrize("transposed", [False, True])
def test_parameters_of_two_and_three_dimensions(tmp_path, transposed):
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    configs = [
        {"target_modules": [], "target_parameters": ["matrix.W", "experts.up", "experts.down"]},
        {
            "target_modules": [],
            "target_parameters": ["experts.down", "experts.up"],
            "r": 2,
            "rank_pattern": {"experts.up": 5},
        },
    ]

    with pytest.warns(RuntimeWarning, match="rank_pattern"):
        runtime, expected = _loaded(tmp_path, lambda: Matrices(transposed=transposed).eval(), x, configs)

    _hold(runtime, expected, x)


MIXTURES = {
    "mixtral": (mixtral, "gate.weight"),
    "qwen3_moe": (qwen3_moe, "gate.weight"),
    "gpt_oss": (gpt_oss, "router.weight"),
}


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_of_a_mixture_get_flattened_tokens(tmp_path, family):
    make, router = MIXTURES[family]
    configs = [
        {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "r": 2},
        {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj", router], "lora_alpha": 3},
    ]

    runtime, expected = _loaded(tmp_path, make, IDS, configs)

    _hold(runtime, expected, IDS)


def test_heads_and_containers_saved_in_full(tmp_path):
    mask = {"attention_mask": torch.ones_like(IDS)}
    configs = [
        {"target_modules": ["q_proj"], "modules_to_save": ["score", "layers.0.mlp", "norm"]},
        {"target_modules": ["up_proj"], "modules_to_save": ["score", "embed_tokens"]},
    ]

    runtime, expected = _loaded(tmp_path, classifier, IDS, configs, **mask)

    _hold(runtime, expected, IDS, **mask)


@pytest.mark.parametrize("tied", [False, True])
def test_output_layer_saved_in_full_tied_or_not(tmp_path, tied):
    configs = [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": tied},
    ]

    runtime, expected = _loaded(tmp_path, lambda: llama(tie_word_embeddings=tied), IDS, configs)

    _hold(runtime, expected, IDS)


@pytest.mark.parametrize("case", ["experts", "attention", "copies"])
def test_merged_tensors_give_what_active_ones_do_and_come_back(tmp_path, case):
    make, x, config = {
        "experts": (
            mixtral,
            IDS,
            {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
        ),
        "attention": (lambda: Attention(batch_first=True).eval(), torch.randn(3, 4, 12), {"target_modules": ["mha"]}),
        "copies": (classifier, IDS, {"target_modules": ["q_proj"], "modules_to_save": ["score", "norm"]}),
    }[case]
    runtime, expected = _loaded(tmp_path, make, x, [config])
    before = {name: tensor.clone() for name, tensor in runtime.model.state_dict().items()}

    runtime.merge("a0")
    merged = _run(runtime.model, x)
    runtime.unmerge()

    torch.testing.assert_close(merged, expected["a0"], **CLOSE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in runtime.model.state_dict().items())


def test_a_scale_multiplies_what_is_added(tmp_path):
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    runtime, _ = _loaded(
        tmp_path, lambda: Matrices().eval(), x, [{"target_modules": [], "target_parameters": ["matrix.W"]}]
    )
    tensors = runtime.state_dict("a0")
    delta = 1.5 * tensors["base_model.model.matrix.lora_B.weight"] @ tensors["base_model.model.matrix.lora_A.weight"]
    with torch.no_grad():
        half = runtime.model.experts(x @ (runtime.model.matrix.W + 0.5 * delta).T)

    runtime.activate("a0")
    runtime.set_scale("a0", 0.5)

    torch.testing.assert_close(_run(runtime, x), half, **CLOSE)


def test_a_copy_is_whole_at_any_scale_and_off_at_zero(tmp_path):
    config = {"target_modules": [], "target_parameters": ["matrix.W"], "modules_to_save": ["experts"]}
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    runtime, expected = _loaded(tmp_path, lambda: Matrices().eval(), x, [config])
    copies = {name.rpartition(".")[2]: tensor for name, tensor in runtime.state_dict("a0").items() if "experts" in name}
    own = Experts(transposed=False)
    own.load_state_dict(copies)
    runtime.activate("a0")

    runtime.set_scale("a0", 1e-9)
    tiny = _run(runtime, x)
    runtime.set_scale("a0", 0.0)

    with torch.no_grad():
        torch.testing.assert_close(tiny, own(runtime.model.matrix(x)), **CLOSE)
    assert torch.equal(_run(runtime, x), expected["__base__"])


def test_copies_of_one_tensor_by_two_active_adapters_are_refused(tmp_path):
    configs = [{"target_modules": ["q_proj"], "modules_to_save": ["score"]}] * 2
    runtime, _ = _loaded(tmp_path, classifier, IDS, configs)
    runtime.activate("a1")

    with pytest.raises(RefusedError, match=r"score.weight: a0 and a1 both have a copy of it; only one can be on"):
        runtime.activate(["a0", "a1"])

    assert runtime.active == ("a1",)


def test_rows_through_a_module_with_a_state_of_its_own_are_refused(tmp_path):
    """GptOss keeps attention's sinks as a parameter of the module that also writes the cache of keys and values."""
    config = {"target_modules": [], "target_parameters": ["router.weight"], "modules_to_save": ["self_attn"]}
    runtime, expected = _loaded(tmp_path, gpt_oss, IDS, [config])

    torch.testing.assert_close(_run(runtime, IDS, adapter_names=["a0"] * 3, use_cache=False), expected["a0"], **CLOSE)
    with pytest.raises(BatchError, match="cannot run a batch of several adapters, its call takes a DynamicCache"):
        _run(runtime, IDS, adapter_names=["a0"] * 3, use_cache=True)


def test_factors_and_copies_that_do_not_fit_are_all_named(tmp_path):
    folder = lora_folder(tmp_path / "a", Matrices(), target_modules=[], target_parameters=["matrix.W", "experts.up"])
    model = Matrices(transposed=True)
    model.matrix.W = nn.Parameter(torch.randn(10, 9))
    model.experts.up = nn.Parameter(torch.randn(3, 10, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(RefusedError) as refused:
        Runtime(model).load("a", folder)

    assert sorted(finding.where for finding in refused.value.findings) == ["experts.up", "matrix.W"]
    assert "expected factors of (4, 9) and (10, 4), found (4, 8) and (10, 4)" in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
