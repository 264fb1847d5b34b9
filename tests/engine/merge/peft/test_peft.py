"""peft 0.21.2 as oracle: it loads every result completely, and its logits are those of the fp64 definition."""

import copy

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from engine.merge import RankRule, Source, merge
from tests.engine.merge.factories import best, deltas, distance, weighted
from tests.engine.tiny import llama

WEIGHTS = (0.7, -0.4)
LOGITS = 2e-5
"""Float32 forward passes of differently ordered products, relative to the adapters' effect."""


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32, tie_word_embeddings=False
        )
    )


def bert():
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


class Convs(nn.Module):
    """Convolutions of one, two and three dimensions over one input, and a grouped one."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(4, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 8, (3, 5), stride=(1, 2))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.point = nn.Conv2d(12, 5, 1)
        self.three = nn.Conv3d(5, 6, (2, 2, 1))

    def forward(self, x):
        x = self.one(x).tanh().reshape(2, 6, 12, 12)
        x = self.point(self.grouped(self.two(x).tanh()).tanh())
        return self.three(torch.stack([x, x * x], 2))


class Rooted(nn.Module):
    """A module at the root whose name ends that of another, and attention."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(12, 12)
        self.inner = nn.ModuleDict({"q": nn.Linear(12, 12), "my_q": nn.Linear(12, 12)})
        self.mha = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x):
        x = self.inner["my_q"](self.inner["q"](self.q(x)).tanh())
        return self.mha(x, x, x)[0]


BY_PEFT = ("convs", "attention")
"""Grouped convolutions have no weight that holds ΔW; PEFT's attention in eval mode is not base plus its ΔW."""

IDS = torch.arange(24).reshape(2, 12) * 7 % 64
SIGNAL = torch.linspace(-1, 1, 2 * 4 * 144).reshape(2, 4, 144)
FLOATS = torch.linspace(-2, 2, 2 * 5 * 12).reshape(2, 5, 12)

CASES = {
    "llama": (llama, IDS, {"target_modules": ["q_proj", "v_proj", "down_proj"]}, {"target_modules": "all-linear"}),
    "llama-patterns": (
        llama,
        IDS,
        {
            "target_modules": ["q_proj", "k_proj"],
            "rank_pattern": {"k_proj": 2},
            "alpha_pattern": {"0.self_attn.q_proj": 3},
        },
        {"target_modules": r".*\.1\..*(q|up)_proj", "use_rslora": True},
    ),
    "llama-embedding": (
        llama,
        IDS,
        {"target_modules": ["model.embed_tokens", "q_proj"]},
        {"target_modules": ["model.embed_tokens", "o_proj"], "layers_to_transform": [1]},
    ),
    "llama-replicated": (
        llama,
        IDS,
        {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
        {"target_modules": ["q_proj", "o_proj"], "layer_replication": [[0, 2], [1, 2]]},
    ),
    "gpt2": (
        gpt2,
        IDS,
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
        {"target_modules": ["c_fc", "c_attn", "wte"], "fan_in_fan_out": True},
    ),
    "bert": (
        bert,
        IDS,
        {"target_modules": ["query", "word_embeddings"], "task_type": "SEQ_CLS"},
        {"target_modules": ["value", "word_embeddings", "query"]},
    ),
    "convs": (
        Convs,
        SIGNAL,
        {"target_modules": ["one", "two", "grouped", "three"]},
        {"target_modules": ["one", "two", "grouped", "point", "three"]},
    ),
    "rooted": (Rooted, FLOATS, {"target_modules": "q"}, {"target_modules": "q|inner.my_q"}),
    "attention": (Rooted, FLOATS, {"target_modules": ["mha", "my_q"]}, {"target_modules": ["mha"]}),
}


def forward(model, inputs):
    model.eval()
    with torch.no_grad():
        found = model(inputs)
    return getattr(found, "logits", found)


def make_parent(base, folder, seed, config):
    """Trains nothing: every factor and copy gets random values, so that all of them matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = peft.get_peft_model(
            copy.deepcopy(base), peft.LoraConfig(r=8 if seed == 1 else 4, lora_alpha=9, **config)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def base_with(base, deltas_by_module, inputs, config):
    """Logits of the base in which every ΔW was added in float64 to the weight it belongs to."""
    model = copy.deepcopy(base)
    if "layer_replication" in config:
        peft.tuners.tuners_utils.replicate_layers(model, config["layer_replication"])
        for layer in model.model.layers:
            # Replicas share their weights; each has a ΔW of its own.
            for module in layer.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(parameter.detach().clone()))
    for name, delta in deltas_by_module.items():
        add(model.get_submodule(name.replace(".base_layer", "")), torch.from_numpy(delta))
    return forward(model, inputs)


def add(module, delta):
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    if isinstance(module, nn.Embedding | transformers.pytorch_utils.Conv1D):
        delta = delta.T
    elif isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        raise TypeError("a grouped convolution has no such weight")
    weight.data = (weight.data.double() + delta.reshape(weight.shape)).float()


def load(base, folder):
    """A model with this adapter alone, after checking that nothing was missing and nothing left over."""
    model = peft.PeftModel(copy.deepcopy(base), peft.LoraConfig.from_pretrained(folder))
    result = model.load_adapter(folder, "default")
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    return model


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    torch.manual_seed(0)
    make, inputs, *configs = CASES[request.param]
    base = make().eval()
    parents = [make_parent(base, tmp_path / str(seed), seed, config) for seed, config in enumerate(configs, 1)]
    return request.param, base, inputs, parents, configs


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("method", "rank"), [("cat", None), ("svd", 5)])
def test_peft_loads_the_result_and_computes_the_definition(case, tmp_path, method, rank):
    name, base, inputs, parents, configs = case
    sources = [Source(folder, weight) for folder, weight in zip(parents, WEIGHTS, strict=True)]

    merge(sources, method=method, rule=RankRule(rank), out=tmp_path / "out")

    expected = weighted(parents, WEIGHTS)
    found = deltas(tmp_path / "out")
    assert found.keys() == expected.keys()
    if name != "convs":
        wanted = {key: value if rank is None else best(value, rank) for key, value in expected.items()}
        assert max(distance(found[key], wanted[key]) for key in wanted) < 1e-6
    model = load(base, tmp_path / "out")
    assert adapted(model) == {key.replace(".base_layer", "") for key in expected}
    if name in BY_PEFT:
        truth = by_peft(base, parents, inputs) if rank is None else None
    else:
        truth = base_with(with_heads(base, parents), wanted, inputs, configs[0])
    if truth is not None:
        effect = float((truth - forward(base, inputs)).norm())
        assert float((forward(model, inputs) - truth).norm()) < LOGITS * effect


def with_heads(base, parents):
    """The base with the full copies that the parents trained."""
    model = copy.deepcopy(base)
    for folder in parents:
        for key, value in load_file(folder / "adapter_model.safetensors").items():
            if ".lora_" not in key:
                model.get_parameter(key.removeprefix("base_model.model.")).data.copy_(value)
    return model


def adapted(model):
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix).replace(".base_layer", "")
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


def by_peft(base, parents, inputs):
    """Both parents active with their weights: the exact sum, also where no base weight could hold it."""
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), parents[0], adapter_name="one")
    model.load_adapter(parents[1], "two")
    model.base_model.set_adapter(["one", "two"])
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for adapter, weight in zip(("one", "two"), WEIGHTS, strict=True):
                if adapter in module.scaling:
                    module.scaling[adapter] *= weight
    return forward(model, inputs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cat_holds_the_tensors_of_pefts_cat(tmp_path):
    torch.manual_seed(0)
    base = llama().eval()
    config = {"target_modules": ["q_proj", "down_proj"]}
    parents = [make_parent(base, tmp_path / str(seed), seed, config) for seed in (1, 2)]
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), parents[0], adapter_name="one")
    model.load_adapter(parents[1], "two")
    model.add_weighted_adapter(["one", "two"], list(WEIGHTS), "both", combination_type="cat")

    merge([Source(f, w) for f, w in zip(parents, WEIGHTS, strict=True)], method="cat", out=tmp_path / "out")

    ours = load(base, tmp_path / "out")
    theirs = peft.get_peft_model_state_dict(model, adapter_name="both")
    found = peft.get_peft_model_state_dict(ours)
    assert found.keys() == theirs.keys()
    assert all(torch.allclose(found[key], theirs[key], rtol=2e-7, atol=0) for key in theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_trained_head_travels(tmp_path):
    """With weight 1 and the head of the second parent, the logits are the second parent's own."""
    torch.manual_seed(0)
    base = bert().eval()
    first = make_parent(base, tmp_path / "1", 1, {"target_modules": ["query"]})
    second = make_parent(base, tmp_path / "2", 2, {"target_modules": ["value"], "modules_to_save": ["classifier"]})

    merge([Source(first, 0.0), Source(second, 1.0)], method="svd", out=tmp_path / "out")

    truth = forward(load(base, second), IDS)
    assert torch.allclose(forward(load(base, tmp_path / "out"), IDS), truth, atol=1e-5)
    assert not torch.allclose(forward(base, IDS), truth, atol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_embeddings_lie_where_the_result_adapts_them(tmp_path):
    """PEFT writes both tables with either parent, of one that adapts them under its wrappers."""
    torch.manual_seed(0)
    base = llama().eval()
    for seed, targets in ((1, ["embed_tokens", "lm_head"]), (2, ["q_proj"])):
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=4, target_modules=targets))
        model.save_pretrained(tmp_path / str(seed), save_embedding_layers=True)

    merge([Source(tmp_path / "1", 0.5), Source(tmp_path / "2", 0.5)], method="cat", out=tmp_path / "out")

    load(base, tmp_path / "out")
    copies = {name for name in load_file(tmp_path / "out" / "adapter_model.safetensors") if "lora_" not in name}
    assert copies == {
        "base_model.model.model.embed_tokens.base_layer.weight",
        "base_model.model.lm_head.base_layer.weight",
    }
