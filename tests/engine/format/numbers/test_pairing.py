"""Adapters compared module by module, from files: every layer kind, against dense ΔW built by its own definition."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.format.adapter import read_adapter
from engine.format.numbers.pairing import compare_modules

P = "base_model.model."


def write(folder, tensors, **config):
    folder.mkdir()
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "k", "conv", "embed"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    save_file(tensors, folder / "adapter_model.safetensors")
    return read_adapter(folder)


def pair(seed, a_shape, b_shape, name="m.q", dtype=np.float32):
    draw = np.random.default_rng(seed).standard_normal
    tensors = {f"{name}.lora_A.weight": draw(a_shape), f"{name}.lora_B.weight": draw(b_shape)}
    return {P + key: value.astype(dtype) for key, value in tensors.items()}


def compare(tmp_path, left, right, left_config=None, right_config=None):
    found = compare_modules(
        write(tmp_path / "left", left, **(left_config or {})), write(tmp_path / "right", right, **(right_config or {}))
    )
    return {one.name: one for one in found}


def halves(tensors):
    return [value.astype(np.float64) for _, value in sorted(tensors.items())]


def assert_like(contrast, one, other):
    """The contrast of two dense matrices."""
    assert contrast.norms == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)), rel=1e-12)
    assert contrast.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-12)
    assert contrast.inner == pytest.approx((one * other).sum(), rel=1e-10)
    assert contrast.signs.conflict == pytest.approx((one * other < 0).sum() / (one * other != 0).sum())


def test_linear_layers_each_with_its_own_scaling(tmp_path):
    """alpha / r is 4 / 2 on the left and 8 / √4 on the right, whose rank is 4."""
    left, right = pair(1, (2, 6), (5, 2)), pair(2, (4, 6), (5, 4))
    found = compare(tmp_path, left, right, None, {"r": 4, "lora_alpha": 8, "use_rslora": True})
    (a1, b1), (a2, b2) = halves(left), halves(right)

    assert_like(found["m.q"].contrast, 2 * b1 @ a1, 4 * b2 @ a2)
    assert found["m.q"].contrast.columns.ranks == (2, 4)


def test_half_precision_is_widened_exactly(tmp_path):
    left, right = pair(1, (2, 6), (5, 2), dtype=np.float16), pair(2, (2, 6), (5, 2), dtype=np.float64)
    found = compare(tmp_path, left, right)
    (a1, b1), (a2, b2) = halves(left), halves(right)

    assert_like(found["m.q"].contrast, 2 * b1 @ a1, 2 * b2 @ a2)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    left = {key: torch.from_numpy(value).bfloat16() for key, value in pair(1, (2, 6), (5, 2)).items()}
    facts = write(tmp_path / "left", pair(1, (2, 6), (5, 2)))
    save_torch(left, tmp_path / "left" / "adapter_model.safetensors")
    facts = read_adapter(facts.path)
    (found,) = compare_modules(facts, facts)
    a, b = (value.double().numpy() for _, value in sorted(left.items()))

    assert_like(found.contrast, 2 * b @ a, 2 * b @ a)
    assert found.contrast.relative == 0.0


def test_a_convolution_lies_flat(tmp_path):
    left, right = (pair(seed, (2, 3, 3, 3), (6, 2, 1, 1), "m.conv") for seed in (1, 2))
    found = compare(tmp_path, left, right)
    (a1, b1), (a2, b2) = halves(left), halves(right)

    assert_like(
        found["m.conv"].contrast,
        2 * np.einsum("orxy,rikl->oikl", b1, a1).reshape(6, 27),
        2 * np.einsum("orxy,rikl->oikl", b2, a2).reshape(6, 27),
    )


def test_a_grouped_convolution_is_block_diagonal(tmp_path):
    """Two groups, rank 4: outputs 0 to 2 see ranks 0 and 1, outputs 3 to 5 ranks 2 and 3."""
    left, right = (pair(seed, (4, 3, 1, 1), (6, 2, 1, 1), "m.conv") for seed in (1, 2))
    found = compare(tmp_path, left, right, {"r": 4, "lora_alpha": 4}, {"r": 4, "lora_alpha": 4})

    def delta(tensors):
        a, b = (half.reshape(half.shape[:2]) for half in halves(tensors))
        dense = np.zeros((6, 6))
        dense[:3, :3], dense[3:, 3:] = b[:3] @ a[:2], b[3:] @ a[2:]
        return dense

    assert_like(found["m.conv"].contrast, delta(left), delta(right))
    assert found["m.conv"].contrast.columns.ranks == (4, 4)


def test_embeddings(tmp_path):
    left, right = pair(1, (2, 10), (4, 2), "m.embed"), pair(2, (2, 10), (4, 2), "m.embed")
    named = [
        {
            key.replace("lora_A.weight", "lora_embedding_A").replace("lora_B.weight", "lora_embedding_B"): value
            for key, value in side.items()
        }
        for side in (left, right)
    ]
    found = compare(tmp_path, *named)
    (a1, b1), (a2, b2) = halves(left), halves(right)

    assert found["m.embed"].left.kind == "embedding"
    assert_like(found["m.embed"].contrast, 2 * b1 @ a1, 2 * b2 @ a2)


def test_every_expert_of_a_parameter_is_a_matrix_of_its_own(tmp_path):
    """Three experts, rank 2: A holds the experts' ranks one below the other, B the experts innermost (PEFT 0.21)."""
    config = {"target_modules": [], "target_parameters": ["experts.down"]}
    left, right = (pair(seed, (6, 5), (4, 6), "m.experts") for seed in (1, 2))
    found = compare(tmp_path, left, right, config, config)

    def delta(tensors):
        a, b = halves(tensors)
        return 2 * np.einsum("ore,eri->eoi", b.reshape(4, 2, 3), a.reshape(3, 2, 5)).reshape(12, 5)

    assert found["m.experts"].left.kind == "parameter"
    assert_like(found["m.experts"].contrast, delta(left), delta(right))


def test_a_module_that_one_side_has_is_compared_with_zero(tmp_path):
    left, extra = pair(1, (2, 6), (5, 2)), pair(2, (2, 6), (5, 2), "m.k")
    found = compare(tmp_path, left, left | extra)
    a, b = halves(extra)

    assert found["m.q"].contrast.relative == 0.0
    assert (found["m.k"].left, found["m.k"].contrast.relative) == (None, 1.0)
    assert found["m.k"].contrast.norms == pytest.approx((0.0, np.linalg.norm(2 * b @ a)), rel=1e-12)


def test_shapes_that_differ_are_named(tmp_path):
    found = compare(tmp_path, pair(1, (2, 6), (5, 2)), pair(1, (2, 7), (5, 2)))

    assert (found["m.q"].contrast, found["m.q"].reason) == (None, "the shapes of ΔW differ")


def test_values_that_are_not_finite_are_named(tmp_path):
    broken = pair(1, (2, 6), (5, 2))
    broken[P + "m.q.lora_A.weight"][0, 0] = np.nan
    found = compare(tmp_path, broken, pair(1, (2, 6), (5, 2)))

    assert (found["m.q"].contrast, found["m.q"].reason) == (None, "values are not finite")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_qalora": True}, "QA-LoRA and BD-LoRA pool or block their factors"),
        ({"use_bdlora": {"nblocks": 2}}, "QA-LoRA and BD-LoRA pool or block their factors"),
    ],
)
def test_methods_whose_delta_is_another_product_are_named(tmp_path, config, reason):
    found = compare(tmp_path, pair(1, (2, 6), (5, 2)), pair(1, (2, 6), (5, 2)), None, config)

    assert (found["m.q"].contrast, found["m.q"].reason) == (None, reason)


def test_integers_are_no_factors(tmp_path):
    found = compare(tmp_path, pair(1, (2, 6), (5, 2), dtype=np.int32), pair(1, (2, 6), (5, 2)))

    assert found["m.q"].reason == "dtype I32 is not read"


def test_factors_of_two_ranks_are_named(tmp_path):
    found = compare(tmp_path, pair(1, (3, 6), (5, 2)), pair(1, (2, 6), (5, 2)))

    assert found["m.q"].reason == "factors [3, 6] and [5, 2] do not fit"
