"""`diff` measures with numpy what a merge measures with torch: both say the same of the same adapters."""

import pytest

from engine.format.adapter import read_adapter
from engine.format.numbers.pairing import compare_modules
from engine.format.numbers.subspaces import together
from engine.merge import Source, merge
from tests.engine.merge.factories import conv, linear, write_adapter


def parent(folder, seed, *, rank, more):
    """Layers looked at whole, sampled, grouped, and one that only this parent has."""
    tensors = (
        linear("small", inputs=9, outputs=30, rank=rank, seed=seed)
        | linear("large", inputs=400, outputs=300, rank=rank, seed=seed + 1)
        | conv("grouped", inputs=4, outputs=6, kernel=(3,), rank=rank, seed=seed + 2, groups=2)
        | linear(more, inputs=5, outputs=7, rank=rank, seed=seed + 3)
    )
    return write_adapter(folder, tensors, r=rank, lora_alpha=7)


@pytest.fixture
def both(tmp_path):
    folders = parent(tmp_path / "a", 1, rank=4, more="mine"), parent(tmp_path / "b", 60, rank=6, more="yours")
    report = merge([Source(folder, 0.5) for folder in folders], method="svd", out=tmp_path / "out")
    return list(compare_modules(*map(read_adapter, folders))), report


def same(pair, contrast):
    assert pair.columns_overlap == pytest.approx(contrast.columns.overlap, rel=1e-9)
    assert pair.rows_overlap == pytest.approx(contrast.rows.overlap, rel=1e-9)
    assert pair.cosine == pytest.approx(contrast.cosine, rel=1e-9)
    assert (pair.sign_conflict, pair.elements) == (pytest.approx(contrast.signs.conflict), contrast.signs.elements)


def test_both_agree_on_every_module(both):
    compared, report = both
    contrasts = {one.name: one.contrast for one in compared}

    assert [len(module.pairs) for module in report.per_module] == [1, 1, 0, 1, 0]
    for module in report.per_module:
        for pair in module.pairs:
            same(pair, contrasts[module.name])
        assert [parent.share for parent in module.parents] == pytest.approx(contrasts[module.name].shares)


def test_both_agree_on_the_whole(both):
    compared, report = both
    whole = together([one.contrast for one in compared])

    same(report.pairs[0], whole)
    assert [parent.share for parent in report.parents] == pytest.approx(whole.shares)
    assert [parent.norm for parent in report.parents] == pytest.approx(whole.norms)
