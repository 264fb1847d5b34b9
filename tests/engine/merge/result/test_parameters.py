"""Adapters of bare parameters (target_parameters): merged expert by expert, loaded and computed by peft 0.21.2."""

import copy
import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from engine.errors import RefusedError
from engine.merge import RankRule, Source, merge, plan
from tests.engine.merge.factories import PREFIX, best, distance, linear, normal, write_adapter
from tests.engine.merge.peft.test_peft import IDS, LOGITS, adapted, forward, load
from tests.engine.tiny import SIZES

EXPERTS = 4
WEIGHTS = (0.7, -0.4)
BOTH = ["experts.gate_up_proj", "experts.down_proj"]


def mixtral():
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **SIZES,
            vocab_size=64,
            num_local_experts=EXPERTS,
        )
    ).eval()


def qwen():
    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **SIZES,
            moe_intermediate_size=24,
            head_dim=8,
            vocab_size=64,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            mlp_only_layers=[],
        )
    ).eval()


def make_parent(base, folder, seed, **config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**{"lora_alpha": 9, **config}))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def expert_deltas(folder, ranks):
    """Tensor name without `.lora_A.weight` to s·B_e·A_e, (experts, out, in); `ranks` maps it to (rank, scaling)."""
    tensors = {name: value.double().numpy() for name, value in load_file(folder / "adapter_model.safetensors").items()}
    found = {}
    for name, A in tensors.items():
        if not name.endswith("lora_A.weight"):
            continue
        path = name.removesuffix(".lora_A.weight")
        B, (rank, scaling) = tensors[f"{path}.lora_B.weight"], ranks(path)
        count = A.shape[0] // rank
        products = [B[:, expert::count] @ A[expert * rank : (expert + 1) * rank] for expert in range(count)]
        found[path] = scaling * np.stack(products)
    return found


CASES = {
    "mixtral": (mixtral, {"r": 4}, {"r": 3, "lora_alpha": 5, "use_rslora": True}, lambda _: (4, 2.25), (3, 5 / 3**0.5)),
    "qwen": (qwen, {"r": 2}, {"r": 5, "lora_alpha": 3}, lambda _: (2, 4.5), (5, 0.6)),
    "patterns": (
        mixtral,
        {"r": 4, "rank_pattern": {"experts.down_proj": 2}, "alpha_pattern": {"experts.gate_up_proj": 7}},
        {"r": 3, "lora_alpha": 5},
        lambda path: (4, 7 / 4) if "base_layer" in path else (2, 4.5),
        (3, 5 / 3),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(("method", "rank"), [("cat", None), ("svd", 3)])
@pytest.mark.parametrize("name", CASES)
def test_peft_computes_the_definition_expert_by_expert(tmp_path, name, method, rank):
    make, one, other, first_ranks, second = CASES[name]
    base = make()
    folders = [
        make_parent(base, tmp_path / str(seed), seed, target_modules=[], target_parameters=BOTH, **config)
        for seed, config in enumerate((one, other), 1)
    ]

    merge([Source(*pair) for pair in zip(folders, WEIGHTS, strict=True)], method=method, rule=RankRule(rank),
          out=tmp_path / "out")  # fmt: skip

    left, right = expert_deltas(folders[0], first_ranks), expert_deltas(folders[1], lambda _: second)
    wanted = {path: WEIGHTS[0] * left[path] + WEIGHTS[1] * right[path] for path in left}
    if rank is not None:
        wanted = {path: np.stack([best(one, rank) for one in stack]) for path, stack in wanted.items()}
    model = copy.deepcopy(base)
    for path, stack in wanted.items():
        outer = path.removeprefix(PREFIX).removesuffix(".base_layer")
        leaf = "gate_up_proj" if path.endswith("base_layer") else "down_proj"
        parameter = model.get_parameter(f"{outer}.{leaf}")
        parameter.data = (parameter.data.double() + torch.from_numpy(stack)).float()
    truth = forward(model, IDS)
    effect = float((truth - forward(base, IDS)).norm())
    assert float((forward(load(base, tmp_path / "out"), IDS) - truth).norm()) < LOGITS * effect


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_modules_and_parameters_in_one_result(tmp_path):
    """A parent without parameters adds nothing to them; the attention of both keeps its own rank."""
    base = mixtral()
    folders = [
        make_parent(base, tmp_path / "a", 1, r=4, target_modules=["q_proj"], target_parameters=BOTH),
        make_parent(base, tmp_path / "b", 2, r=2, target_modules=["q_proj", "v_proj"]),
    ]

    merge([Source(folder, 0.5) for folder in folders], method="cat", out=tmp_path / "out")

    model = load(base, tmp_path / "out")
    names = {f"model.layers.{layer}.{end}" for layer in (0, 1) for end in ("self_attn.q_proj", "self_attn.v_proj",
             "mlp.experts")}  # fmt: skip
    assert adapted(model) == names
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["target_parameters"]) == (6, sorted(BOTH))
    shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / "out/adapter_model.safetensors").items()}
    assert shapes[f"{PREFIX}model.layers.0.mlp.experts.lora_A.weight"] == (4 * EXPERTS, 48)
    assert shapes[f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"] == (6, 32)


def pair(name, rows, *, inputs, outputs, seed):
    return {
        f"{PREFIX}{name}.lora_A.weight": normal(seed, rows, inputs),
        f"{PREFIX}{name}.lora_B.weight": normal(seed + 100, outputs, rows),
    }


def nested(inner=12, outer=12, **config):
    return pair("moe.experts.base_layer", inner, inputs=8, outputs=10, seed=1) | pair(
        "moe.experts", outer, inputs=10, outputs=8, seed=2
    ), {"target_modules": [], "target_parameters": ["experts.up", "experts.down"], **config}


def written(folder, tensors, config):
    return Source(write_adapter(folder, tensors, **config), 0.5)


def refused(*sources):
    with pytest.raises(RefusedError) as caught:
        plan(sources, method="svd")
    return [(finding.rule, finding.where) for finding in caught.value.findings]


def test_ranks_are_told_apart_by_the_number_of_experts(tmp_path):
    """12 and 6 rows at ranks 4 and 2 are 3 experts each; 4 in 6 rows would be no whole number."""
    source = written(tmp_path / "a", *nested(outer=6, rank_pattern={"down": 2}))

    facts = {module.name: module for module in plan([source], method="cat").parents[0].modules}

    assert (facts["moe.experts.base_layer"].rank, facts["moe.experts.base_layer"].scaling) == (4, 9 / 4)
    assert (facts["moe.experts"].rank, facts["moe.experts"].scaling) == (2, 9 / 2)


def test_one_rank_and_two_alphas_cannot_be_told_apart(tmp_path):
    source = written(tmp_path / "a", *nested(alpha_pattern={"down": 2}))

    assert refused(source) == [("merge-target-parameters", "moe.experts")]


def test_rows_that_the_rank_does_not_divide(tmp_path):
    assert refused(written(tmp_path / "a", *nested(outer=10))) == [("merge-target-parameters", "moe.experts")]


def test_parents_must_name_the_same_parameters(tmp_path):
    one = written(tmp_path / "a", *nested())
    other = written(tmp_path / "b", *nested(target_parameters=["experts.up", "experts.gate"]))

    assert refused(one, other) == [("merge-target-parameters", None)]


def test_another_number_of_experts(tmp_path):
    one, other = written(tmp_path / "a", *nested()), written(tmp_path / "b", *nested(16, 16))

    assert {rule for rule, _ in refused(one, other)} == {"merge-shapes"}


@pytest.mark.parametrize(("version", "fits"), [("0.18.1", False), ("0.21.2", True), (None, True)])
def test_square_experts_of_pefts_that_lay_them_out_differently(tmp_path, version, fits):
    config = {"target_modules": [], "target_parameters": ["experts.up"]}
    sources = [
        written(tmp_path / str(seed), pair("moe.experts", 8, inputs=6, outputs=6, seed=seed),
                {**config, "peft_version": given})
        for seed, given in enumerate((version, "0.19.0"))
    ]  # fmt: skip

    if fits:
        assert plan(sources, method="cat").rank == 8
    else:
        assert refused(*sources) == [("merge-target-parameters", "moe.experts")]


def test_a_module_in_one_parent_and_its_parameter_in_another(tmp_path):
    """A router is a Linear whose weight can be named either way; the two are no sum of one kind."""
    one = written(tmp_path / "a", linear("mlp.gate", inputs=8, outputs=4, rank=4, seed=1), {})
    other = written(tmp_path / "b", linear("mlp.gate", inputs=8, outputs=4, rank=4, seed=2),
                    {"target_modules": [], "target_parameters": ["gate.weight"]})  # fmt: skip

    assert refused(one, other) == [("merge-shapes", "mlp.gate")]


def test_ranks_of_one_modules_parameters_are_evened(tmp_path):
    """The file does not say which wrapper holds which parameter, so the config can give only one rank for both."""
    tensors = pair("moe.experts.base_layer", 12, inputs=2, outputs=10, seed=1) | pair(
        "moe.experts", 12, inputs=10, outputs=8, seed=2
    )
    source = Source(write_adapter(tmp_path / "a", tensors, **nested()[1]), 1.0)

    merge([source], method="svd", out=tmp_path / "out")

    found = expert_deltas(tmp_path / "out", lambda _: (4, 1.0))
    wanted = expert_deltas(tmp_path / "a", lambda _: (4, 9 / 4))
    assert found.keys() == wanted.keys()
    assert max(distance(found[path], wanted[path]) for path in wanted) < 1e-6


def test_a_budget_of_ranks_is_kept(tmp_path):
    tensors, config = nested()
    source = Source(write_adapter(tmp_path / "a", tensors, **config), 1.0)

    merge([source], method="svd", rule=RankRule(budget=2400), out=tmp_path / "out")

    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size <= 2400
    shapes = {value.shape[0] for name, value in load_file(tmp_path / "out/adapter_model.safetensors").items()
              if "lora_A" in name}  # fmt: skip
    assert len(shapes) == 1
