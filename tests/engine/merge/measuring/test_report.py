"""The report's numbers by hand."""

import json
import math

import numpy as np
import pytest
import torch

from engine.merge import RankRule, Source, merge
from engine.merge.given.weights import WeightRule
from tests.engine.merge.factories import PREFIX, deltas, linear, weighted, write_adapter


def diagonal_of(folder, modules):
    """A parent whose ΔW of each module is the diagonal given, scaling 1."""
    tensors = {}
    for module, entries in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.eye(len(entries))
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.diag(torch.tensor(entries))
    rank = max(map(len, modules.values()))
    return write_adapter(folder, tensors, r=rank, lora_alpha=rank)


def diagonal(folder, module, *entries):
    """A parent whose ΔW of `module` is diag(entries), scaling 1."""
    return diagonal_of(folder, {module: list(entries)})


def test_one_module_by_hand(tmp_path):
    """D = 1·diag(3, 0) + 0.5·diag(0, 8) = diag(3, 4); rank 1 keeps the 4."""
    sources = [
        Source(diagonal(tmp_path / "a", "m", 3.0, 0.0), 1.0),
        Source(diagonal(tmp_path / "b", "m", 0.0, 8.0), 0.5),
    ]

    report = merge(sources, method="svd", rule=RankRule(1), out=tmp_path / "out")

    assert (report.method, report.rank, report.dtype, report.modules) == ("svd", 1, "float32", 1)
    assert report.norm == pytest.approx(4.0)
    assert report.energy_kept == pytest.approx(16 / 25)
    assert report.relative_error == pytest.approx(3 / 5)
    first, second = report.parents
    assert (first.weight, first.norm, first.cosine, first.retention) == pytest.approx((1.0, 3.0, 0.0, 0.0))
    assert (second.weight, second.norm, second.cosine, second.retention) == pytest.approx((0.5, 8.0, 1.0, 0.5))
    assert (first.share, second.share) == pytest.approx((3 / 7, 4 / 7))
    assert report.per_module[0].spectrum == pytest.approx((4.0, 3.0))
    assert report.per_module[0].name == "m"


def test_modules_add_as_one_vector(tmp_path):
    """Two modules of norm 3 and 4: the whole has norm 5, and parent b, of norm 4, has cosine 4/5 with it."""
    sources = [Source(diagonal(tmp_path / "a", "x", 3.0), 1.0), Source(diagonal(tmp_path / "b", "y", 4.0), 1.0)]

    report = merge(sources, method="cat", out=tmp_path / "out")

    assert report.norm == pytest.approx(5.0)
    assert [parent.cosine for parent in report.parents] == pytest.approx([3 / 5, 4 / 5])
    assert [parent.retention for parent in report.parents] == pytest.approx([1.0, 1.0])
    x, y = report.per_module
    assert (x.parents[0].norm, x.parents[1].norm, x.parents[1].cosine, x.parents[1].retention) == (3.0, 0.0, None, None)
    assert (x.parents[0].share, x.parents[1].share, y.parents[1].share) == (1.0, 0.0, 1.0)


def test_opposed_parents(tmp_path):
    """3 - 1 = 2 along one direction: what is left still points the subtracted parent's way, twice its length."""
    sources = [Source(diagonal(tmp_path / "a", "m", 3.0), 1.0), Source(diagonal(tmp_path / "b", "m", 1.0), -1.0)]

    first, second = merge(sources, method="svd", out=tmp_path / "out").parents

    assert (first.cosine, first.retention, first.share) == pytest.approx((1.0, 2 / 3, 3 / 4))
    assert (second.cosine, second.retention, second.share) == pytest.approx((1.0, 2.0, 1 / 4))


def test_ratios_equal_dense_ones(tmp_path):
    folders = [
        write_adapter(
            tmp_path / str(seed),
            linear("one", inputs=16, outputs=12, rank=4, seed=seed)
            | linear("two", inputs=9, outputs=30, rank=4, seed=seed + 7),
        )
        for seed in (1, 2, 3)
    ]
    weights = (0.7, -0.4, 1.1)

    report = merge(
        [Source(f, w) for f, w in zip(folders, weights, strict=True)],
        method="svd",
        rule=RankRule(5),
        out=tmp_path / "o",
    )

    def flat(matrices):
        return np.concatenate([matrices[name].ravel() for name in ("one", "two")])

    target, found = flat(weighted(folders, weights)), flat(deltas(tmp_path / "o"))
    assert report.relative_error == pytest.approx(np.linalg.norm(target - found) / np.linalg.norm(target), rel=1e-6)
    assert report.energy_kept == pytest.approx(found @ found / (target @ target), rel=1e-6)
    for parent, folder in zip(report.parents, folders, strict=True):
        own = flat(deltas(folder))
        assert parent.norm == pytest.approx(np.linalg.norm(own), rel=1e-9)
        assert parent.cosine == pytest.approx(found @ own / np.linalg.norm(found) / np.linalg.norm(own), rel=1e-6)
        assert parent.retention == pytest.approx(found @ own / (own @ own), rel=1e-6)
    assert math.fsum(parent.share for parent in report.parents) == pytest.approx(1.0)


def test_json_is_the_contracts(tmp_path):
    """Strict JSON, with at least the fields of the command's contract."""
    report = merge([Source(diagonal(tmp_path / "a", "m", 3.0), 1.0)], method="svd", out=tmp_path / "out")

    document = json.loads(json.dumps(report.as_json(), allow_nan=False))

    assert {"method", "rank", "modules", "energy_kept", "relative_error", "parents", "per_module", "dtype"} <= set(
        document
    )
    assert set(document["parents"][0]) == {"weight", "norm", "cosine", "retention", "share"}
    assert {"name", "rank", "norm", "energy_kept", "relative_error", "spectrum", "parents"} <= set(
        document["per_module"][0]
    )


def test_weights_by_layer(tmp_path):
    """Layer 0 takes b twice, layer 1 once: norms 2·3 and 1·4 of b beside a's 1·1 and 1·1."""
    a = diagonal_of(tmp_path / "a", {"layers.0.q": [1.0, 0.0], "layers.1.q": [1.0, 0.0]})
    b = diagonal_of(tmp_path / "b", {"layers.0.q": [0.0, 3.0], "layers.1.q": [0.0, 4.0]})
    sources = [Source(a, 1.0), Source(b, 1.0, (WeightRule(2.0, layers=(0, 0)),))]

    report = merge(sources, method="cat", out=tmp_path / "out")

    merged = deltas(tmp_path / "out")
    np.testing.assert_allclose(merged["layers.0.q"], np.diag([1.0, 6.0]))
    np.testing.assert_allclose(merged["layers.1.q"], np.diag([1.0, 4.0]))
    assert [parent.weight for parent in report.per_module[0].parents] == [1.0, 2.0]
    assert [parent.share for parent in report.per_module[0].parents] == pytest.approx([1 / 7, 6 / 7])
    own, other = math.sqrt(2), math.sqrt(36 + 16)
    assert [parent.share for parent in report.parents] == pytest.approx([own / (own + other), other / (own + other)])
    assert [parent.weight for parent in report.parents] == [1.0, 1.0]


def test_a_cosine_is_no_more_than_one(tmp_path):
    """Of a parent with itself it is one, and rounding would take some of these a little over."""
    for seed in range(20):
        folder = write_adapter(tmp_path / f"a{seed}", linear("q", inputs=9, outputs=7, rank=3, seed=seed), r=3)
        report = merge([Source(folder, 0.7)], method="resize", out=tmp_path / f"out{seed}")

        assert 1 - 1e-12 < report.parents[0].cosine <= 1
