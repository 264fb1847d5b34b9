"""Which weight a module gets."""

import pytest

from engine.merge.weights import Weight, WeightRule

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
