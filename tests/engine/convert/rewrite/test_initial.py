"""PiSSA and its kin as plain LoRA: the trained function on an untouched base."""

from __future__ import annotations

import functools
import json
import warnings

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import load_file
from torch import nn

from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.convert.rewrite.initial import without_initial
from engine.convert.rewrite.plan import plan_rewrites
from engine.convert.rewrite.scales import Wanted, uniform
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from tests.engine.convert.rewrite.adapters import config_of, rewritten

METHODS = ("pissa", "pissa_niter_4", "olora")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin0 = nn.Linear(12, 16)
        self.lin1 = nn.Linear(16, 12)

    def forward(self, x):
        return self.lin1(torch.tanh(self.lin0(x)))


DATA = torch.randn((64, 12), generator=torch.Generator().manual_seed(4))
X = torch.randn((5, 12), generator=torch.Generator().manual_seed(3)).double()


def fresh():
    torch.manual_seed(0)
    return Plain()


def trained(tmp_path, dtype=torch.float32, **options):
    """The initial adapter, the trained one, what training computed at its end, and PEFT's own conversion."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 9, "target_modules": ["lin0", "lin1"], **options})
    model = get_peft_model(prepared(fresh(), config), config)
    model.save_pretrained(tmp_path / "initial")
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "trained")
    for folder in ("initial", "trained"):
        if dtype != torch.float32:
            _cast(tmp_path / folder, dtype)
    with torch.no_grad():
        return model.double().eval()(X), model


def prepared(model, config):
    """The model as PEFT prepares it where an initialisation looks at data: covariances, or gradients."""
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=lambda: model(DATA))
    elif config.init_lora_weights == "lora_ga":
        preprocess_loraga(model, config, lambda: model(DATA).square().mean().backward())
    return model


def _cast(folder, dtype):
    from safetensors.torch import save_file

    tensors = {name: one.to(dtype) for name, one in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def run(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(fresh(), folder).double().eval()
    with torch.no_grad():
        return model(X)


def without(tmp_path, *more):
    facts = read_adapter(tmp_path / "initial")
    function = functools.partial(without_initial, initial=facts)
    return rewritten(tmp_path / "trained", tmp_path / "plain", function, *more, initial=tmp_path / "initial")


FROM_DATA = {
    "CorDA, knowledge-preserved": {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")},
    "CorDA, instruction-previewed": {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="ipm")},
    "LoRA-GA": {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig()},
}
OPTIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"lin0": 2}, "alpha_pattern": {"lin1": 5}},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_the_trained_function_is_kept_on_the_base_as_it_is(tmp_path, method, options):
    expected, model = trained(tmp_path, init_lora_weights=method, **OPTIONS[options])

    without(tmp_path)

    assert (run(tmp_path / "plain") - expected).abs().max() < 1e-6
    assert (fresh().double()(X) - expected).abs().max() > 0.01
    # PEFT's own conversion says the same of the configuration, and of every number
    model.float().save_pretrained(tmp_path / "peft", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    theirs, ours = config_of(tmp_path / "peft"), config_of(tmp_path / "plain")
    for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"):
        assert ours[key] == pytest.approx(theirs[key]), key
    theirs, ours = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("peft", "plain"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", FROM_DATA)
def test_initialisations_from_data_become_plain_too(tmp_path, method, options):
    """Made by PEFT's own preparation; PEFT cannot load CorDA without that data, and loads LoRA-GA on another base."""
    expected, _ = trained(tmp_path, **FROM_DATA[method], **OPTIONS[options])

    _, said = without(tmp_path)

    assert (run(tmp_path / "plain") - expected).abs().max() < 1e-6
    assert (fresh().double()(X) - expected).abs().max() > 0.01
    assert (said["init_lora_weights"], said["r"]) == (True, 8)
    assert said.get("corda_config") is said.get("lora_ga_config") is None
    for engine in ("vllm", "vllm@0.31.0", "sglang", "llamacpp"):
        found = check_for(read_adapter(tmp_path / "plain"), parse_target(engine))
        assert not [finding.rule for finding in found if "initialisation" in finding.rule]
    assert "init-changed-base" not in {finding.rule for finding in check_adapter(read_adapter(tmp_path / "plain"))}


@pytest.mark.filterwarnings("ignore")
def test_rslora_with_patterns_which_peft_refuses(tmp_path):
    expected, _ = trained(
        tmp_path, init_lora_weights="pissa", use_rslora=True, rank_pattern={"lin0": 2}, alpha_pattern={"lin1": 5}
    )

    without(tmp_path, functools.partial(uniform, wanted=Wanted(whole=True)))

    assert config_of(tmp_path / "plain")["r"] == 8
    assert (run(tmp_path / "plain") - expected).abs().max() < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_bfloat16_is_not_rounded_by_it(tmp_path):
    """The factors are only laid beside each other, one with its sign turned."""
    trained(tmp_path, dtype=torch.bfloat16, init_lora_weights="pissa")

    done, _ = without(tmp_path)

    assert (done.rounded, done.largest_change) == (0, 0.0)
    before, begun, after = (
        load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("trained", "initial", "plain")
    )
    key = "base_model.model.lin0.lora_{}.weight"
    assert torch.equal(after[key.format("A")], torch.cat([before[key.format("A")], begun[key.format("A")]]))
    assert torch.equal(after[key.format("B")], torch.cat([before[key.format("B")], -begun[key.format("B")]], dim=1))


@pytest.mark.filterwarnings("ignore")
def test_halves_of_two_kinds_become_float32(tmp_path):
    trained(tmp_path, init_lora_weights="pissa")
    _cast(tmp_path / "trained", torch.bfloat16)
    _cast(tmp_path / "initial", torch.float16)

    done, _ = without(tmp_path)

    assert {one.dtype for one in load_file(tmp_path / "plain" / "adapter_model.safetensors").values()} == {
        torch.float32
    }
    assert done.rounded == 0


@pytest.mark.filterwarnings("ignore")
def test_the_finding_is_cleared_for_every_engine_that_has_it(tmp_path):
    trained(tmp_path, init_lora_weights="pissa")
    facts, begun = read_adapter(tmp_path / "trained"), read_adapter(tmp_path / "initial")

    for engine in ("vllm", "vllm@0.23", "llamacpp"):
        plan = plan_rewrites(facts, parse_target(engine), initial=begun)

        assert plan.rewrites[0] == "initial"
        assert not [finding for finding in plan.findings if finding.severity == "error"]


@pytest.mark.filterwarnings("ignore")
def test_without_the_initial_adapter_it_is_asked_for(tmp_path):
    trained(tmp_path, init_lora_weights="pissa")

    with pytest.raises(RefusedError, match="the adapter as it was before training is needed") as caught:
        plan_rewrites(read_adapter(tmp_path / "trained"), parse_target("vllm"))

    assert [finding.rule for finding in caught.value.findings] == ["rewrite-initial"]
    assert "--initial" in caught.value.findings[0].fix


def changed(folder, **values):
    document = config_of(folder)
    (folder / "adapter_config.json").write_text(json.dumps({**document, **values}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("where", "values", "named"),
    [
        ("initial", {"lora_alpha": 18}, r"lin0: expected scaling 2\.25 in the initial adapter, found 4\.5"),
        ("trained", {"init_lora_weights": True}, "init_lora_weights 'True': expected one of pissa"),
        ("trained", {"init_lora_weights": "loftq", "loftq_config": {"x": 1}}, "'loftq': expected one of pissa"),
        ("trained", {"use_dora": True}, "use_dora: its magnitudes hold for one pair"),
        ("trained", {"use_qalora": True}, "use_qalora: its factors are no matrices"),
    ],
)
def test_another_initial_adapter_or_method_is_refused(tmp_path, where, values, named):
    trained(tmp_path, init_lora_weights="pissa")
    changed(tmp_path / where, **values)

    with pytest.raises(RefusedError, match=named):
        without(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_an_initial_adapter_of_other_modules_or_ranks_is_refused(tmp_path):
    for place, options, named in (
        ("modules", {"target_modules": ["lin0"]}, "lin1: the initial adapter lacks it"),
        ("ranks", {"r": 3}, r"lin0: expected factors \[4, 12\] and \[16, 4\] in the initial adapter, found \[3, 12\]"),
    ):
        trained(tmp_path / place, init_lora_weights="pissa")
        trained(tmp_path / f"{place}-other", init_lora_weights="pissa", **options)
        (tmp_path / place / "initial").rename(tmp_path / place / "unused")
        (tmp_path / f"{place}-other" / "initial").rename(tmp_path / place / "initial")

        with pytest.raises(RefusedError, match=named):
            without(tmp_path / place)
