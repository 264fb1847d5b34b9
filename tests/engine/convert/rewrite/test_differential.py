"""Through PEFT: what a rewritten adapter computes is what the adapter computed, over drawn configurations."""

from __future__ import annotations

import functools
import random

import pytest
import torch

from engine.convert.rewrite.scales import Wanted, uniform
from engine.convert.rewrite.targets import explicit_targets
from tests.engine.convert.rewrite.adapters import alone, lora, outputs, relative, rewritten, save

MODULES = ("emb", "lin0", "lin1", "turned", "one", "two", "grouped", "three")
PATTERNS = {"emb": "emb", "lin0": "^lin0", "lin1": "lin[1-9]", "turned": "turne.", "one": "o?one", "two": "(two|none)",
            "grouped": "grouped", "three": "th.*"}  # fmt: skip
# of the output: float32 factors, rounded once where a scale goes into B
CLOSE = 1e-6


def drawn(seed):
    """A configuration of some of the kinds, with patterns, rsLoRA and targets as a list or an expression."""
    draw = random.Random(seed)
    modules = draw.sample(MODULES, draw.randint(2, len(MODULES)))
    # the ranks of a grouped convolution lie in as many slices as it has groups
    ranks = (2, 4, 6, 8) if "grouped" in modules else (1, 2, 3, 5, 8)
    patterned = draw.sample(modules, draw.randint(0, len(modules)))
    return lora(
        r=draw.choice(ranks),
        lora_alpha=draw.choice((1, 2.5, 8, 16, 33)),
        use_rslora=draw.random() < 0.5,
        rank_pattern={PATTERNS[name]: draw.choice(ranks) for name in patterned},
        alpha_pattern={
            PATTERNS[name]: draw.choice((1, 3, 4.5, 64)) for name in draw.sample(modules, len(modules) // 2)
        },
        target_modules=modules if draw.random() < 0.5 else f"({'|'.join(modules)})",
    )


def merged_too(config):
    """PEFT merges no grouped convolution."""
    return "grouped" not in str(config.target_modules)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(16))
def test_scales_ranks_and_targets_keep_the_outputs(tmp_path, seed):
    config = drawn(seed)
    folder = save(tmp_path / "a", config)
    draw = random.Random(1000 + seed)
    wanted = Wanted(rank=draw.choice((None, 8)), whole=draw.random() < 0.5, unit=draw.random() < 0.3)

    _, said = rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=wanted), explicit_targets)

    assert (said["use_rslora"], said["rank_pattern"], said["alpha_pattern"]) == (False, {}, {})
    assert isinstance(said["target_modules"], list)
    expected = outputs(folder)
    assert (expected - alone()).abs().max() > 0.01
    assert relative(outputs(tmp_path / "b"), expected) < CLOSE
    if merged_too(config):
        assert relative(outputs(tmp_path / "b", merged=True), outputs(folder, merged=True)) < CLOSE


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_magnitudes_hold_for_the_folded_factors_too(tmp_path):
    """DoRA divides by the norm of W + scaling B A, which stays."""
    folder = save(tmp_path / "a", lora(use_dora=True, alpha_pattern={"lin0": 5}, rank_pattern={"lin1": 2}))

    rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=Wanted(rank=6, unit=True)))

    assert relative(outputs(tmp_path / "b"), outputs(folder)) < CLOSE


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bfloat16_moves_by_its_one_rounding(tmp_path):
    """At most 2^-8 of a number of B: outputs follow within that, and float32 shows that nothing else happened."""
    config = lora(alpha_pattern={"lin0": 3.3, "lin1": 5.7})
    folder = save(tmp_path / "a", config, dtype=torch.bfloat16)

    done, _ = rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=Wanted(unit=True)))

    assert (done.rounded, done.largest_change) == (2, pytest.approx(0.0017, abs=0.0008))
    assert CLOSE < relative(outputs(tmp_path / "b"), outputs(folder)) < 2**-8


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rslora_alone_changes_no_bfloat16(tmp_path):
    folder = save(tmp_path / "a", lora(use_rslora=True), dtype=torch.bfloat16)

    done, _ = rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=Wanted()))

    assert done.rounded == 0
    assert relative(outputs(tmp_path / "b"), outputs(folder)) < 1e-12
