"""The norms of a base's weights, against numpy over the same tensors."""

import json
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import BaseError
from engine.format.basenorms import base_norms


def _draw(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norms_are_frobenius(tmp_path, dtype):
    weight = _draw(700, 900, dtype=dtype)
    save_file({"model.layers.0.q.weight": weight}, tmp_path / "model.safetensors")

    found = base_norms(tmp_path)

    assert list(found) == ["layers.0.q.weight"]
    assert found["layers.0.q.weight"] == pytest.approx(np.sqrt((weight.astype(np.float64) ** 2).sum()), rel=1e-12)


def test_bfloat16_is_read_by_its_bits(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    weight = torch.randn(800, 700, generator=torch.manual_seed(1)).to(torch.bfloat16)
    save_torch({"w.weight": weight}, tmp_path / "model.safetensors")

    assert base_norms(tmp_path)["w.weight"] == pytest.approx(float(weight.double().norm()), rel=1e-12)


def test_shards_are_one_model(tmp_path):
    parts = {"a.safetensors": {"h.0.w": _draw(3, 4)}, "b.safetensors": {"h.1.w": _draw(5, 6)}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    index = {"weight_map": {tensor: name for name, tensors in parts.items() for tensor in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    assert base_norms(tmp_path).keys() == {"h.0.w", "h.1.w"}


def test_what_has_no_norm_is_left_out(tmp_path):
    bad = _draw(2, 2)
    bad[0, 0] = np.nan
    tensors = {
        "good.weight": _draw(2, 2),
        "nan.weight": bad,
        "packed.weight": np.ones((2, 2), dtype=np.uint8),
        "rotary.inv_freq": _draw(4),
        "empty.weight": np.zeros((0, 3), dtype=np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")

    assert base_norms(tmp_path).keys() == {"good.weight", "empty.weight"}


def test_a_config_alone_has_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(BaseError):
        base_norms(tmp_path)


def test_memory_does_not_grow_with_the_weights(tmp_path):
    save_file({"w.weight": _draw(4096, 4096)}, tmp_path / "model.safetensors")  # 64 MiB
    base_norms(tmp_path)
    tracemalloc.start()
    base_norms(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 * 2**20
