"""Drawn merges by peft 0.21.2 itself, in memory, against ours under its semantics: ΔW, never A or B."""

import random

import pytest

from engine.errors import RefusedError
from engine.merge import Options, RankRule, Source, merge
from tests.engine.merge.drawn import FAMILIES, draw_model, merged_by_peft
from tests.engine.merge.factories import deltas, distance

TYPES = (
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
)
MODELS = [(family, seed) for family in FAMILIES for seed in range(3)]
TOLERANCE = 1e-4
"""Relative, of float32 singular value decompositions; everything else is below 2e-6."""


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0]}-{model[1]}".replace(" ", "-"))
def drawn(request, tmp_path_factory):
    return draw_model(*request.param, tmp_path_factory.mktemp("parents"))


def drawn_options(drawn, kind):
    """PEFT's arguments, then ours."""
    draw = random.Random(f"{drawn.name} {kind}")
    given = {}
    if kind not in ("cat", "linear", "svd"):
        given["density"] = draw.choice([0.2, 0.35, 0.5, 0.7, 0.9, 1.0])
    theirs, ours = dict(given), dict(given)
    if "ties" in kind:
        theirs["majority_sign_method"] = ours["majority_sign"] = draw.choice(["total", "frequency"])
    seed = draw.randrange(1000)
    if "dare" in kind:
        ours["seed"] = seed
    rank = draw.choice([None, draw.randint(1, 9)]) if kind.endswith("svd") else None
    theirs["svd_rank"] = rank
    return theirs, Options(**ours), RankRule(rank), seed


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", TYPES)
def test_ours_is_pefts(drawn, kind, tmp_path):
    """What PEFT raises on we refuse, and we refuse nothing else here."""
    theirs, options, rule, seed = drawn_options(drawn, kind)
    sources = [Source(folder, weight) for folder, weight in zip(drawn.folders, drawn.weights, strict=True)]
    arguments = {"method": kind, "semantics": "peft", "options": options, "rule": rule, "out": tmp_path / "out"}
    try:
        expected = merged_by_peft(drawn, kind, seed=seed, **theirs)
    except (ValueError, RuntimeError):
        with pytest.raises(RefusedError):
            merge(sources, **arguments)
        return

    merge(sources, **arguments)

    found = deltas(tmp_path / "out")
    assert found.keys() == expected.keys()
    tolerance = TOLERANCE if kind.endswith("svd") else 2e-6
    assert max(distance(found[name], expected[name]) for name in expected) < tolerance
