"""Full copies, biases, token rows and lora_bias: carried from one parent, decided between several, loaded by peft."""

import copy

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.errors import OptionError, RefusedError
from engine.merge import RankRule, Source, merge, plan
from engine.merge.given.weights import WeightRule
from tests.engine.merge.factories import PREFIX, conv, embedding, linear, normal, write_adapter
from tests.engine.merge.peft.test_peft import load

IDS = torch.arange(24).reshape(2, 12) * 7 % 20


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.one = nn.Linear(12, 16)
        self.two = nn.Linear(16, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, ids):
        return self.head(self.two(self.one(self.emb(ids)).tanh()))


def small():
    torch.manual_seed(0)
    return Small().eval()


def make_parent(base, folder, seed, **config):
    """Random values in everything that peft would train."""
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**{"r": 4, "lora_alpha": 9, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens_delta" in name or "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


def forward(model, inputs=IDS):
    with torch.no_grad():
        return model(inputs)


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


ALONE = {
    "bias-all": {"target_modules": ["one"], "bias": "all"},
    "bias-lora-only": {"target_modules": ["one"], "bias": "lora_only"},
    "tokens": {"target_modules": ["one"], "trainable_token_indices": {"emb": [5, 3, 19]}},
    "saved": {"target_modules": ["one"], "modules_to_save": ["head"]},
    "saved-and-bias": {"target_modules": ["one"], "modules_to_save": ["head"], "bias": "all"},
    "lora-bias": {"target_modules": ["one"], "lora_bias": True},
    "lora-bias-rslora": {"target_modules": ["one"], "lora_bias": True, "use_rslora": True},
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*invalid shape")
@pytest.mark.parametrize("method", ["cat", "svd"])
@pytest.mark.parametrize("name", ALONE)
def test_what_one_parent_alone_has_is_carried(tmp_path, name, method):
    """With weight 1 for the parent that has it and 0 for one that adapts more modules, peft computes the parent."""
    base = small()
    having = make_parent(base, tmp_path / "a", 1, **ALONE[name])
    plain = make_parent(base, tmp_path / "b", 2, target_modules=["one", "two"])

    merge([Source(plain, 0.0), Source(having, 1.0)], method=method, out=tmp_path / "out")

    truth = forward(peft.PeftModel.from_pretrained(copy.deepcopy(base), having))
    assert torch.allclose(forward(load(base, tmp_path / "out")), truth, atol=1e-5)
    assert not torch.allclose(forward(base), truth, atol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*invalid shape")
@pytest.mark.parametrize("name", ALONE)
def test_one_parent_is_itself(tmp_path, name):
    base = small()
    parent = make_parent(base, tmp_path / "a", 1, **ALONE[name])

    merge([Source(parent, 1.0)], method="svd", out=tmp_path / "out")

    truth = forward(peft.PeftModel.from_pretrained(copy.deepcopy(base), parent))
    assert torch.allclose(forward(load(base, tmp_path / "out")), truth, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*invalid shape")
def test_biases_inside_lora_b_are_summed_exactly(tmp_path):
    """By weight and scaling: 0.7·9/4·b - 0.4·9/√2·c, zeros for the module that only a third parent has."""
    base = small()
    one = make_parent(base, tmp_path / "a", 1, target_modules=["one"], lora_bias=True)
    two = make_parent(base, tmp_path / "b", 2, target_modules=["one"], lora_bias=True, r=2, use_rslora=True)
    three = make_parent(base, tmp_path / "c", 3, target_modules=["two"])

    merge([Source(one, 0.7), Source(two, -0.4), Source(three, 1.0)], method="cat", out=tmp_path / "out")

    name = f"{PREFIX}one.lora_B.bias"
    b, c = (tensors(folder)[name].double() for folder in (one, two))
    found = tensors(tmp_path / "out")
    assert torch.equal(found[name], (0.7 * 9 / 4 * b + -0.4 * 9 / 2**0.5 * c).float())
    assert torch.equal(found[f"{PREFIX}two.lora_B.bias"], torch.zeros(12))
    load(base, tmp_path / "out")


def parent(folder, extra, **config):
    factors = linear("one", inputs=12, outputs=16, rank=4, seed=1)
    return write_adapter(folder, factors | {PREFIX + name: value for name, value in extra.items()}, **config)


FAMILIES = {
    "modules_to_save": ("merge-modules-to-save", "head.weight", (5, 12), {"modules_to_save": ["head"]}),
    "bias": ("merge-bias", "one.base_layer.bias", (16,), {"bias": "lora_only"}),
    "tokens": (
        "merge-trainable-tokens",
        "emb.token_adapter.trainable_tokens_delta",
        (2, 12),
        {"trainable_token_indices": {"emb": [3, 5]}},
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    rule, name, shape, config = FAMILIES[request.param]
    folders = [parent(tmp_path / str(seed), {name: normal(seed, *shape)}, **config) for seed in (1, 2)]
    return rule, PREFIX + name, folders, config, shape


def test_several_parents_are_refused_unless_it_is_said_what_to_do(family):
    rule, _, folders, _, _ = family

    with pytest.raises(RefusedError, match="--other average or first") as caught:
        plan([Source(folder, 0.5) for folder in folders], method="svd")

    assert [finding.rule for finding in caught.value.findings] == [rule]


def test_the_average_is_by_weight_in_float64_rounded_once(family, tmp_path):
    _, name, folders, config, _ = family
    plain = parent(tmp_path / "plain", {})

    merge([Source(folders[0], 0.3), Source(plain, 5.0), Source(folders[1], -0.1)], method="svd", other="average",
          out=tmp_path / "out")  # fmt: skip

    one, two = (tensors(folder)[name].double() for folder in folders)
    assert torch.equal(tensors(tmp_path / "out")[name], ((0.3 * one - 0.1 * two) / (0.3 - 0.1)).float())
    key, value = next(iter(config.items()))
    assert plan([Source(folders[0], 1.0)], method="svd").config[key] == value


def test_the_first_parent_that_has_it_gives_its_bytes(family, tmp_path):
    _, name, folders, _, _ = family
    plain = parent(tmp_path / "plain", {})

    merge([Source(plain, 1.0), Source(folders[1], 0.0), Source(folders[0], 1.0)], method="svd", other="first",
          out=tmp_path / "out")  # fmt: skip

    assert torch.equal(tensors(tmp_path / "out")[name], tensors(folders[1])[name])


def test_weights_that_add_up_to_zero_have_no_average(family, tmp_path):
    rule, name, folders, _, _ = family
    sources = [Source(folder, weight) for folder, weight in zip(folders, (0.5, -0.5), strict=True)]

    with pytest.raises(RefusedError, match="add up to 0") as caught:
        merge(sources, method="svd", other="average", out=tmp_path / "out")

    assert [(finding.rule, finding.where) for finding in caught.value.findings] == [(rule, name)]
    assert not (tmp_path / "out").exists()


def test_shapes_that_differ_have_no_average_but_a_first(family, tmp_path):
    rule, name, folders, config, shape = family
    wider = parent(tmp_path / "wide", {name.removeprefix(PREFIX): normal(9, *(size + 1 for size in shape))}, **config)
    sources = [Source(folders[0], 0.5), Source(wider, 0.5)]

    with pytest.raises(RefusedError, match="different shapes") as caught:
        plan(sources, method="svd", other="average")
    merge(sources, method="svd", other="first", out=tmp_path / "out")

    assert {finding.rule for finding in caught.value.findings} == {rule}
    assert tensors(tmp_path / "out")[name].shape == shape


def test_weights_by_module_count_for_what_lies_there(tmp_path):
    name = f"{PREFIX}one.base_layer.bias"
    folders = [parent(tmp_path / str(s), {"one.base_layer.bias": normal(s, 16)}, bias="lora_only") for s in (1, 2)]
    sources = [Source(folders[0], 1.0, (WeightRule(3.0, modules="one"),)), Source(folders[1], 1.0)]

    merge(sources, method="svd", other="average", out=tmp_path / "out")

    one, two = (tensors(folder)[name].double() for folder in folders)
    assert torch.equal(tensors(tmp_path / "out")[name], ((3 * one + two) / 4).float())


def test_an_average_of_two_dtypes_has_the_wider(tmp_path):
    values = (normal(1, 5, 12, dtype=torch.float16), normal(2, 5, 12, dtype=torch.bfloat16))
    folders = [
        parent(tmp_path / str(place), {"head.weight": value}, modules_to_save=["head"])
        for place, value in enumerate(values)
    ]

    merge([Source(folder, 0.5) for folder in folders], method="svd", other="average", out=tmp_path / "out")

    wanted = ((0.5 * values[0].double() + 0.5 * values[1].double()) / 1.0).float()
    assert torch.equal(tensors(tmp_path / "out")[f"{PREFIX}head.weight"], wanted)


def test_a_large_average_is_made_in_blocks(tmp_path):
    """More elements than a block holds, and no multiple of it."""
    values = [normal(seed, 401, 400) for seed in (1, 2)]
    folders = [
        parent(tmp_path / str(place), {"head.weight": value}, modules_to_save=["head"])
        for place, value in enumerate(values)
    ]

    merge([Source(folder, 0.5) for folder in folders], method="svd", other="average", out=tmp_path / "out")

    wanted = (0.5 * values[0].double() + 0.5 * values[1].double()).float()
    assert torch.equal(tensors(tmp_path / "out")[f"{PREFIX}head.weight"], wanted)


def test_a_nan_in_an_average_is_refused(tmp_path):
    values = [torch.full((5, 12), float("nan")), normal(2, 5, 12)]
    folders = [
        parent(tmp_path / str(place), {"head.weight": value}, modules_to_save=["head"])
        for place, value in enumerate(values)
    ]

    with pytest.raises(RefusedError) as caught:
        merge([Source(folder, 0.5) for folder in folders], method="svd", other="average", out=tmp_path / "out")

    assert [finding.rule for finding in caught.value.findings] == ["merge-values"]
    assert not (tmp_path / "out").exists()


def test_whole_numbers_have_no_average(tmp_path):
    folders = [
        parent(tmp_path / str(place), {"head.weight": torch.ones(5, 12, dtype=torch.int8)}, modules_to_save=["head"])
        for place in range(2)
    ]

    with pytest.raises(RefusedError, match="no floating dtype"):
        plan([Source(folder, 0.5) for folder in folders], method="svd", other="average")


def test_saved_embeddings_that_differ_can_be_averaged(tmp_path):
    folders = [parent(tmp_path / str(s), {"lm_head.weight": normal(s, 5, 12)}) for s in (1, 2)]

    merge([Source(folder, 0.5) for folder in folders], method="svd", other="average", out=tmp_path / "out")

    one, two = (tensors(folder)[f"{PREFIX}lm_head.weight"].double() for folder in folders)
    assert torch.equal(tensors(tmp_path / "out")[f"{PREFIX}lm_head.weight"], (0.5 * one + 0.5 * two).float())


def test_equal_embeddings_need_no_decision_even_at_weights_without_an_average(tmp_path):
    folders = [parent(tmp_path / str(place), {"lm_head.weight": normal(1, 5, 12)}) for place in range(2)]
    sources = [Source(folder, weight) for folder, weight in zip(folders, (1.0, -1.0), strict=True)]

    merge(sources, method="svd", other="average", out=tmp_path / "out")

    assert torch.equal(tensors(tmp_path / "out")[f"{PREFIX}lm_head.weight"], normal(1, 5, 12))


def test_rows_of_different_tokens_have_no_average_but_a_first(tmp_path):
    name = "emb.token_adapter.trainable_tokens_delta"
    folders = [
        parent(tmp_path / str(token), {name: normal(token, 2, 12)}, trainable_token_indices={"emb": [token, 9]})
        for token in (1, 2)
    ]
    sources = [Source(folder, 0.5) for folder in folders]

    with pytest.raises(RefusedError, match="different tokens") as caught:
        plan(sources, method="svd", other="average")
    merge(sources, method="svd", other="first", out=tmp_path / "out")

    assert [finding.rule for finding in caught.value.findings] == ["merge-trainable-tokens"]
    assert torch.equal(tensors(tmp_path / "out")[PREFIX + name], normal(1, 2, 12))
    assert plan(sources, method="svd", other="first").config["trainable_token_indices"] == {"emb": [1, 9]}


def test_first_takes_the_token_rows_of_one_parent_only(tmp_path):
    """Rows and indices belong together, so another parent's rows of another embedding do not come along."""
    folders = [
        parent(tmp_path / name, {f"{name}.token_adapter.trainable_tokens_delta": normal(1, 2, 12)},
               trainable_token_indices={name: [1, 2]})
        for name in ("emb", "wte")
    ]  # fmt: skip

    planned = plan([Source(folder, 0.5) for folder in folders], method="svd", other="first")

    assert [one.name for one in planned.others] == [f"{PREFIX}emb.token_adapter.trainable_tokens_delta"]


def test_factors_of_an_embedding_whose_rows_another_parent_replaces(tmp_path):
    """PEFT applies no trainable tokens to an adapted embedding."""
    rows = parent(tmp_path / "a", {"emb.token_adapter.trainable_tokens_delta": normal(1, 2, 12)},
                  trainable_token_indices={"emb": [1, 2]})  # fmt: skip
    factors = write_adapter(tmp_path / "b", embedding("emb", vocabulary=20, width=12, rank=4, seed=2))

    with pytest.raises(RefusedError) as caught:
        plan([Source(rows, 0.5), Source(factors, 0.5)], method="cat", other="first")

    assert [(finding.rule, finding.where) for finding in caught.value.findings] == [("merge-trainable-tokens", "emb")]


def test_a_bias_lies_under_the_wrapper_where_the_result_adapts_its_module(tmp_path):
    biased = parent(tmp_path / "a", {"two.bias": normal(1, 12), "one.base_layer.bias": normal(2, 16)}, bias="all")
    adapting = write_adapter(tmp_path / "b", linear("two", inputs=16, outputs=12, rank=4, seed=3))

    planned = plan([Source(biased, 0.5), Source(adapting, 0.5)], method="cat")

    assert [one.name for one in planned.others] == [f"{PREFIX}one.base_layer.bias", f"{PREFIX}two.base_layer.bias"]
    assert planned.config["bias"] == "all"


def test_biases_of_all_modules_and_of_adapted_ones_are_biases_of_all(tmp_path):
    folders = [
        parent(tmp_path / kind, {"one.base_layer.bias": normal(1, 16)}, bias=kind) for kind in ("lora_only", "all")
    ]

    planned = plan([Source(folder, 0.5) for folder in folders], method="cat", other="average")

    assert planned.config["bias"] == "all"


BIASED = {
    "slerp sums nothing": ("slerp", {}, "slerp sums no"),
    "embedding": ("cat", embedding("emb", vocabulary=20, width=12, rank=4, seed=2), "of kind embedding"),
    "another length": ("cat", linear("one", inputs=12, outputs=16, rank=4, seed=1), "expected floats"),
}


@pytest.mark.parametrize("case", BIASED)
def test_biases_inside_lora_b_that_cannot_be_carried(tmp_path, case):
    method, other, message = BIASED[case]
    length = 15 if case == "another length" else 16
    biased = parent(tmp_path / "a", {"one.lora_B.bias": normal(1, length)}, lora_bias=True)
    plain = write_adapter(tmp_path / "b", other or linear("one", inputs=12, outputs=16, rank=4, seed=5))

    with pytest.raises(RefusedError, match=message) as caught:
        plan([Source(biased, 0.5), Source(plain, 0.5)], method=method)

    assert {finding.rule for finding in caught.value.findings} == {"merge-lora-bias"}


def test_a_convolution_with_a_bias_inside_lora_b(tmp_path):
    factors = conv("c", inputs=4, outputs=6, kernel=(3,), rank=4, seed=1)
    folder = write_adapter(tmp_path / "a", factors | {f"{PREFIX}c.lora_B.bias": normal(1, 6)}, lora_bias=True)

    merge([Source(folder, 2.0)], method="svd", rule=RankRule(1), out=tmp_path / "out")

    assert torch.equal(tensors(tmp_path / "out")[f"{PREFIX}c.lora_B.bias"], (2 * 9 / 4 * normal(1, 6).double()).float())


def test_an_unknown_word(tmp_path):
    with pytest.raises(OptionError, match="other 'median': expected average, first, refuse"):
        plan([Source(parent(tmp_path / "a", {}), 1.0)], method="svd", other="median")
