"""Which weight a module gets."""

import pytest

from engine.errors import OptionError
from engine.merge import Source, plan
from engine.merge.given.weights import Weight, WeightRule
from tests.engine.merge.factories import linear, write_adapter

RULES = Weight(
    0.5,
    (
        WeightRule(1.0, modules="*.mlp.*", layers=(0, 3)),
        WeightRule(2.0, layers=(2, 5)),
        WeightRule(-3.0, modules="lm_head"),
    ),
)


@pytest.mark.parametrize(
    ("module", "weight"),
    [
        ("model.layers.0.mlp.up_proj", 1.0),
        ("model.layers.3.mlp.up_proj", 1.0),
        ("model.layers.4.mlp.up_proj", 2.0),
        ("model.layers.2.self_attn.q_proj", 2.0),
        ("model.layers.6.self_attn.q_proj", 0.5),
        ("model.layers.20.self_attn.q_proj", 0.5),
        ("lm_head", -3.0),
        ("model.lm_head", 0.5),
        ("3", 2.0),
        ("block.w3.up", 0.5),
        ("model.layers.1.experts.4.up", 0.5),
    ],
)
def test_the_first_rule_that_fits(module, weight):
    assert RULES.of(module) == weight


def test_no_rules():
    assert Weight(0.25).of("anything") == 0.25


@pytest.mark.parametrize("weight", [Weight(float("nan")), Weight(1.0, (WeightRule(float("inf")),))])
def test_weights_that_are_not_finite(weight):
    assert not weight.is_finite
    assert Weight(1.0, (WeightRule(-2.0),)).is_finite


RULES_FOR_NOTHING = {
    "a glob": (WeightRule(2.0, modules="*.mpl.*"), r"\*\.mpl\.\*"),
    "layers": (WeightRule(2.0, layers=(7, 9)), "all modules in layers 7 to 9"),
    "both": (WeightRule(2.0, modules="*.q", layers=(1, 3)), r"\*\.q in layers 1 to 3"),
}


@pytest.mark.parametrize("name", RULES_FOR_NOTHING)
def test_a_rule_that_fits_no_module_is_a_mistake(tmp_path, name):
    """Not a weight that is passed over in silence; a rule that fits a module of another parent is none."""
    rule, message = RULES_FOR_NOTHING[name]
    folders = [
        write_adapter(tmp_path / module[-1], linear(module, inputs=5, outputs=6, rank=2, seed=1), r=2)
        for module in ("layers.0.q", "layers.1.k")
    ]
    fits = WeightRule(2.0, modules="*.k")
    plan([Source(folders[0], 1.0, (fits,)), Source(folders[1], 1.0)], method="svd")

    with pytest.raises(OptionError, match=f"{message}.*no module"):
        plan([Source(folders[0], 1.0, (fits, rule)), Source(folders[1], 1.0)], method="svd")
