"""Devices by name, and modules of one shape taken together."""

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import OptionError, RefusedError
from engine.merge import Options, Source, apply_grid, merge, plan
from engine.merge.device import batches, parse_device
from engine.merge.matrices.factors import FactorFile, grouped
from engine.merge.matrices.parts import Part, Parts, join_together
from tests.engine.merge.factories import deltas, distance, linear, normal, write_adapter


def adapter(folder, *, seed, odd=8):
    """Five modules of one shape, and one of another."""
    tensors = {}
    for place in range(5):
        tensors |= linear(f"layers.{place}.q", inputs=12, outputs=10, rank=3, seed=seed + 10 * place)
    tensors |= linear("odd", inputs=odd, outputs=10, rank=3, seed=seed + 90)
    return write_adapter(folder, tensors, r=3)


@pytest.fixture
def planned(tmp_path):
    sources = [
        Source(adapter(tmp_path / name, seed=seed), weight) for name, seed, weight in (("a", 1, 0.7), ("b", 2, -0.4))
    ]
    return plan(sources, method="svd")


def weights(planned):
    return [[source.weighting for source in planned.sources]]


@pytest.mark.parametrize(("together", "sizes"), [(1, [1] * 6), (2, [2, 2, 1, 1]), (64, [5, 1])])
def test_batches_hold_one_shape(planned, together, sizes):
    found = batches(planned.modules, together=together)

    assert [len(batch) for batch in found] == sizes
    assert sorted(module.name for batch in found for module in batch) == [module.name for module in planned.modules]
    assert all(len({module.a_shape for module in batch}) == 1 for batch in found)


@pytest.mark.parametrize("together", [1, 2, 64])
def test_modules_taken_together_are_merged_the_same(planned, tmp_path, together):
    """Every module against its own dense weighted sum, cut; and its report in its place."""
    alone, found = tmp_path / "alone", tmp_path / "found"
    apply_grid(planned, weights(planned), [alone], together=1)

    report = apply_grid(planned, weights(planned), [found], together=together)[0]

    expected, merged = deltas(alone), deltas(found)
    assert max(distance(merged[name], expected[name]) for name in expected) < 1e-6
    assert [module.name for module in report.per_module] == [module.name for module in planned.modules]


def test_together_is_the_same_for_any_number_of_threads(planned, tmp_path):
    for jobs in (1, 3):
        apply_grid(planned, weights(planned), [tmp_path / str(jobs)], together=4, jobs=jobs)

    one, three = ((tmp_path / jobs / "adapter_model.safetensors").read_bytes() for jobs in "13")
    assert one == three


def test_one_module_of_a_batch_that_is_not_finite_is_named(tmp_path):
    tensors = {}
    for place in range(3):
        tensors |= linear(f"layers.{place}.q", inputs=6, outputs=6, rank=2, seed=place)
    tensors["base_model.model.layers.1.q.lora_A.weight"][0, 0] = float("nan")
    planned = plan([Source(write_adapter(tmp_path / "a", tensors, r=2), 1.0)], method="svd")

    with pytest.raises(RefusedError, match=r"layers\.1\.q"):
        apply_grid(planned, weights(planned), [tmp_path / "out"], together=8)


def test_a_dependent_pair_among_others_takes_the_safe_route():
    """Equal parents in one module of the batch only: each joint subspace is still exact."""
    plain = [Part(normal(1, 20, 3), normal(2, 3, 15), 2.0), Part(normal(3, 20, 3), normal(4, 3, 15), 2.0)]
    batch = [Parts(plain), Parts([plain[0], plain[0]])]

    join_together(batch)

    assert batch[0].joint.left.solver is not None
    assert batch[1].joint.left.solver is None
    for parts in batch:
        for part, core in zip(parts.items, parts.joint.cores, strict=True):
            whole = parts.joint.left.lift(core) @ parts.joint.right.lift(torch.eye(core.shape[1], dtype=core.dtype)).T
            assert distance(whole.numpy(), 2.0 * (part.B.double() @ part.A.double()).numpy()) < 1e-12


@pytest.mark.parametrize("text", ["gpu", "cpu:0", "cuda:x", "cuda:-1", "", "cuda:99", "mps"])
def test_devices_that_are_not_here(text):
    with pytest.raises(OptionError, match="device"):
        parse_device(text)


def test_the_processor_is_a_device(planned, tmp_path):
    assert parse_device("cpu").type == "cpu"
    merge(planned.sources, method="svd", device="cpu", out=tmp_path / "out")
    assert (tmp_path / "out/adapter_config.json").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("method", ["svd", "cat", "tsv_m", "knots_ties", "core_ties", "ties", "dare_ties"])
def test_a_gpu_gives_the_processors_product(planned, tmp_path, method):
    for device in ("cpu", "cuda"):
        merge(planned.sources, method=method, device=device, out=tmp_path / device)

    expected, found = deltas(tmp_path / "cpu"), deltas(tmp_path / "cuda")
    assert max(distance(found[name], expected[name]) for name in expected) < 1e-4


def test_where_the_order_decides_what_is_drawn_modules_are_taken_one_by_one(tmp_path):
    """PEFT's DARE draws module after module, so modules of one shape may not be drawn together."""
    folders = []
    for seed in (1, 2):
        tensors = {}
        for place, inputs in enumerate((12, 8, 12)):
            tensors |= linear(f"layers.{place}.q", inputs=inputs, outputs=10, rank=3, seed=seed + 10 * place)
        folders.append(write_adapter(tmp_path / str(seed), tensors, r=3))
    planned = plan(
        [Source(folder, 0.5) for folder in folders],
        method="dare_linear",
        semantics="peft",
        options=Options(density=0.5, seed=3),
    )

    for together in (1, 64):
        apply_grid(planned, weights(planned), [tmp_path / f"out{together}"], together=together)

    one, many = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out1", "out64"))
    assert one == many


def on_the_meta_device(sources, base=None, method="svd"):
    """The parts of every module of a merge whose device holds shapes alone: any mixing with another one raises."""
    planned = plan(sources, method=method, base=base)
    files = [FactorFile(facts, device=torch.device("meta")) for facts in planned.parents]
    return [part for module in planned.modules for parts in grouped(module, files) for part in parts]


def test_vectors_are_whole_on_their_device(tmp_path):
    tensors = {"base_model.model.one.ia3_l": normal(1, 16, 1)}
    folder = write_adapter(tmp_path / "a", tensors, peft_type="IA3", target_modules=["one"], feedforward_modules=[])

    (part,) = on_the_meta_device([Source(folder, 1.0)], method="linear")

    assert (part.A.device.type, part.B.device.type) == ("meta", "meta")


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 10), (10, 12)])
def test_dora_is_made_on_its_device(tmp_path, inputs, outputs):
    pair = linear("q", inputs=inputs, outputs=outputs, rank=3, seed=1)
    folder = write_adapter(
        tmp_path / "a", pair | {"base_model.model.q.lora_magnitude_vector": torch.ones(outputs)}, r=3, use_dora=True
    )
    save_file({"q.weight": normal(5, outputs, inputs)}, tmp_path / "base.safetensors")

    (part,) = on_the_meta_device([Source(folder, 1.0)], base=tmp_path / "base.safetensors")

    assert (part.A.device.type, part.B.device.type, part.shape) == ("meta", "meta", (outputs, inputs))


def test_dora_is_taken_apart_from_plain_modules_of_its_shape(tmp_path):
    """One parent's ΔW are dense, the other's are factors of the same shapes."""
    magnitudes = {"base_model.model.one.lora_magnitude_vector": torch.ones(10)}
    dora = write_adapter(
        tmp_path / "a", linear("one", inputs=12, outputs=10, rank=3, seed=1) | magnitudes, r=3, use_dora=True
    )
    plain = write_adapter(tmp_path / "b", linear("two", inputs=12, outputs=10, rank=3, seed=2), r=3)
    save_file({"one.weight": normal(5, 10, 12), "two.weight": normal(6, 10, 12)}, tmp_path / "base.safetensors")
    planned = plan([Source(dora, 1.0), Source(plain, 1.0)], method="svd", base=tmp_path / "base.safetensors")

    for together in (1, 64):
        apply_grid(planned, weights(planned), [tmp_path / f"out{together}"], together=together)

    expected, found = deltas(tmp_path / "out1"), deltas(tmp_path / "out64")
    assert max(distance(found[name], expected[name]) for name in expected) < 1e-6


def test_parts_that_ask_for_full_accuracy_keep_their_reflections():
    batch = [Parts([Part(normal(seed, 20, 3), normal(seed + 1, 3, 15), 2.0)], precise=True) for seed in (1, 5)]

    join_together(batch)

    assert all(parts.joint.left.solver is None for parts in batch)
