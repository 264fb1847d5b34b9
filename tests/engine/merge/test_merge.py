"""Merges from file to file against the definition Σ w·scaling·B·A in float64 numpy."""

import json
import os
import tracemalloc
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.errors import DestinationError, RefusedError, UnreadableError
from engine.merge import RankRule, Source, apply, merge, plan
from engine.merge.matrices.factors import FactorFile
from tests.engine.merge.factories import (
    best,
    conv,
    deltas,
    distance,
    embedding,
    linear,
    normal,
    weighted,
    write_adapter,
)

FP32 = 3e-7
"""A few float32 roundings of the factors, relative to the whole matrix."""

WEIGHTS = (0.7, -0.4)


def flavour(name, seed, dtype=torch.float32):
    """Tensors and config of one parent; the seed tells the parents apart."""
    rank = 4 if seed == 1 else 2
    config = {"r": rank}
    if name == "rslora":
        config["use_rslora"] = seed == 1
    if name == "patterns":
        config |= {"r": 3, "rank_pattern": {"b.q": rank, "^q": 1}, "alpha_pattern": {"b.q": 5, "q": 2.5}}
        shapes = {"q": 1, "a.q": 3, "b.q": rank}
        tensors = {}
        for place, (module, r) in enumerate(shapes.items()):
            tensors |= linear(module, inputs=12, outputs=10, rank=r, seed=seed + 10 * place)
        return tensors, config
    if name == "embedding":
        return embedding("emb", vocabulary=20, width=12, rank=rank, seed=seed), config
    if name.startswith("conv"):
        kernel = {"conv1d": (3,), "conv2d": (3, 5), "conv3d": (2, 2, 1)}[name]
        return conv("c", inputs=4, outputs=6, kernel=kernel, rank=rank, seed=seed), config
    if name == "grouped":
        return conv("c", inputs=4, outputs=6, kernel=(3, 3), rank=rank, seed=seed, groups=2), config
    modules = {"partial": ["both", f"only{seed}"]}.get(name, ["one", "two"])
    tensors = {}
    for place, module in enumerate(modules):
        tensors |= linear(module, inputs=16, outputs=12, rank=rank, seed=seed + 10 * place, dtype=dtype)
    return tensors, config


FLAVOURS = ["plain", "rslora", "patterns", "embedding", "conv1d", "conv2d", "conv3d", "grouped", "partial"]


def parents(folder, name, **more):
    made = []
    for seed in (1, 2):
        tensors, config = flavour(name, seed)
        made.append(write_adapter(folder / f"parent{seed}", tensors, **config, **more))
    return made


def run(folders, out, *, weights=WEIGHTS, method="svd", rank=None, **options):
    sources = [Source(folder, weight) for folder, weight in zip(folders, weights, strict=True)]
    return merge(sources, method=method, rule=RankRule(rank), out=out, **options)


@pytest.mark.parametrize("name", FLAVOURS)
@pytest.mark.parametrize(("method", "rank"), [("cat", None), ("linear", None), ("svd", "max")])
def test_exact_results_are_the_weighted_sum(tmp_path, name, method, rank):
    folders = parents(tmp_path, name)

    report = run(folders, tmp_path / "out", method=method, rank=rank)

    expected, found = weighted(folders, WEIGHTS), deltas(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert max(distance(found[key], expected[key]) for key in expected) < FP32
    assert report.energy_kept == 1.0
    assert report.relative_error < FP32


@pytest.mark.parametrize("name", [name for name in FLAVOURS if name != "grouped"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_svd_is_the_best_of_its_rank(tmp_path, name, rank):
    folders = parents(tmp_path, name)

    run(folders, tmp_path / "out", rank=rank)

    expected, found = weighted(folders, WEIGHTS), deltas(tmp_path / "out")
    assert max(distance(found[key], best(expected[key], rank)) for key in expected) < FP32


def test_grouped_convolution_is_the_best_in_every_group(tmp_path):
    """Rank 4 in two groups is rank 2 for each half of the output channels."""
    folders = parents(tmp_path, "grouped")

    report = run(folders, tmp_path / "out", rank=4)

    expected, found = weighted(folders, WEIGHTS)["c"], deltas(tmp_path / "out")["c"]
    halves = [best(half, 2) for half in np.split(expected, 2)]
    assert distance(found, np.concatenate(halves)) < FP32
    error = np.linalg.norm(np.concatenate(halves) - expected) / np.linalg.norm(expected)
    assert report.relative_error == pytest.approx(error, rel=1e-5)


def test_the_tolerance_can_fail(tmp_path):
    """A scaling off by one part in a million is seen."""
    folders = parents(tmp_path, "plain")

    run(folders, tmp_path / "out", rank="max", weights=(0.7 * (1 + 1e-6), -0.4))

    expected, found = weighted(folders, WEIGHTS), deltas(tmp_path / "out")
    assert min(distance(found[key], expected[key]) for key in expected) > FP32


@pytest.mark.parametrize("name", FLAVOURS)
def test_one_parent_with_weight_one_is_itself(tmp_path, name):
    folder = parents(tmp_path, name)[0]

    run([folder], tmp_path / "out", weights=[1.0])

    expected, found = deltas(folder), deltas(tmp_path / "out")
    assert max(distance(found[key], expected[key]) for key in expected) < FP32


def test_a_parent_minus_itself_is_zero(tmp_path):
    folder = parents(tmp_path, "plain")[0]

    report = run([folder, folder], tmp_path / "out", weights=[1.0, -1.0])

    assert all(not tensor.any() for tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").values())
    assert (report.energy_kept, report.relative_error, report.norm) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("method", "rank", "ranks"),
    [
        ("cat", None, {"a.q": 6, "b.q": 6, "q": 2}),
        ("linear", None, {"a.q": 6, "b.q": 6, "q": 2}),
        ("svd", None, {"a.q": 4, "b.q": 4, "q": 2}),
        ("svd", 3, {"a.q": 3, "b.q": 3, "q": 2}),
        ("svd", 1, {"a.q": 1, "b.q": 1, "q": 1}),
        ("svd", "max", {"a.q": 6, "b.q": 6, "q": 2}),
        ("svd", 99, {"a.q": 6, "b.q": 6, "q": 2}),
    ],
)
def test_ranks(tmp_path, method, rank, ranks):
    """Parents of ranks 3+3, 4+2 and 1+1: exact methods add them, svd defaults to the largest, 4."""
    report = run(parents(tmp_path, "patterns"), tmp_path / "out", method=method, rank=rank)

    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {module.name: module.rank for module in report.per_module} == ranks
    assert config["r"] == config["lora_alpha"] == report.rank == max(ranks.values())
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: len(tensors[f"base_model.model.{name}.lora_A.weight"]) for name in ranks} == ranks


@pytest.mark.parametrize(
    ("dtypes", "asked", "expected"),
    [
        ((torch.float16, torch.float16), None, torch.float16),
        ((torch.bfloat16, torch.bfloat16), None, torch.bfloat16),
        ((torch.float16, torch.bfloat16), None, torch.float32),
        ((torch.bfloat16, torch.float32), None, torch.float32),
        ((torch.float32, torch.float64), None, torch.float64),
        ((torch.float32, torch.float32), "bf16", torch.bfloat16),
        ((torch.float16, torch.float16), "float32", torch.float32),
    ],
)
@pytest.mark.parametrize("method", ["svd", "cat"])
def test_dtypes_and_their_one_rounding(tmp_path, dtypes, asked, expected, method):
    """The result has the widest dtype, and is as near as rounding each factor once allows."""
    folders = [
        write_adapter(tmp_path / str(seed), flavour("plain", seed, dtype)[0], r=4 if seed == 1 else 2)
        for seed, dtype in zip((1, 2), dtypes, strict=True)
    ]

    report = run(folders, tmp_path / "out", method=method, rank="max" if method == "svd" else None, dtype=asked)

    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    target, found = weighted(folders, WEIGHTS), deltas(tmp_path / "out")
    worst = max(distance(found[key], target[key]) for key in target)
    assert {tensor.dtype for tensor in tensors.values()} == {expected}
    assert report.dtype == str(expected).removeprefix("torch.")
    if expected == torch.float64:
        assert worst < 1e-14
        assert report.relative_error < 1e-15
        return
    error = sum(np.linalg.norm(found[key] - target[key]) ** 2 for key in target)
    energy = sum(np.linalg.norm(target[key]) ** 2 for key in target)
    assert worst < torch.finfo(expected).eps
    assert report.relative_error == pytest.approx(np.sqrt(error / energy), rel=1e-3)


def test_same_parents_give_the_same_bytes(tmp_path):
    folders = parents(tmp_path, "plain")
    threads = torch.get_num_threads()
    try:
        for name, count in (("one", 1), ("two", 2), ("three", 2)):
            torch.set_num_threads(count)
            run(folders, tmp_path / name)
    finally:
        torch.set_num_threads(threads)

    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("one", "two", "three")}) == 1


def test_threads_begun_later_compute_as_before(tmp_path):
    """A merge is a guest in its process: torch hands its last setting to every new thread."""
    threads, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)

        run(parents(tmp_path, "plain"), tmp_path / "out")
        thread = Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()

        assert found == [2]
    finally:
        torch.set_num_threads(threads)


def test_threads_are_left_as_they_were(tmp_path):
    """In every library below torch: the math library keeps one count for the whole process."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        before = torch.__config__.parallel_info()

        run(parents(tmp_path, "plain"), tmp_path / "out")

        assert torch.__config__.parallel_info() == before
    finally:
        torch.set_num_threads(threads)


def test_trained_copies_of_one_parent_are_carried(tmp_path):
    """Byte for byte, in their own dtype, whatever the weight; listed in the config."""
    tensors, config = flavour("plain", 1)
    head = normal(7, 5, 12, dtype=torch.bfloat16)
    saved = tensors | {"base_model.model.head.weight": head}
    folders = [
        write_adapter(tmp_path / "a", flavour("plain", 2)[0], r=2),
        write_adapter(tmp_path / "b", saved, **config, modules_to_save=["head"]),
    ]

    run(folders, tmp_path / "out", weights=[0.5, 0.25])

    out = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(out["base_model.model.head.weight"].view(torch.int16), head.view(torch.int16))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"] == ["head"]


def large_heads(tmp_path):
    """Two parents with the same untrained copy of 32 MiB, twice as much as may be read of a config."""
    head = {"base_model.model.lm_head.weight": torch.ones(2**20, 8)}
    return [
        write_adapter(tmp_path / str(seed), flavour("plain", seed)[0] | head, **flavour("plain", seed)[1])
        for seed in (1, 2)
    ]


def test_a_copy_is_compared_and_carried_without_being_held_in_memory(tmp_path):
    folders = large_heads(tmp_path)
    tracemalloc.start()
    try:
        run(folders, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20
    out = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert out["base_model.model.lm_head.weight"].sum() == 2**23


def test_a_copy_whose_file_became_shorter_is_an_error_that_names_it(tmp_path):
    folders = large_heads(tmp_path)
    planned = plan([Source(folder, 1.0) for folder in folders], method="cat")
    weights = folders[0] / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 2**20)

    with pytest.raises(UnreadableError, match=r"1/adapter_model\.safetensors.*changed"):
        apply(planned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_saved_embeddings_are_carried_once(tmp_path):
    copy = {"base_model.model.lm_head.weight": normal(7, 8, 12)}
    folders = []
    for seed in (1, 2):
        tensors, config = flavour("plain", seed)
        folders.append(write_adapter(tmp_path / str(seed), tensors | copy, **config))

    run(folders, tmp_path / "out")

    out = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(out["base_model.model.lm_head.weight"], copy["base_model.model.lm_head.weight"])


def test_progress_counts_every_module(tmp_path):
    seen = []

    run(parents(tmp_path, "patterns"), tmp_path / "out", progress=lambda *now: seen.append(now))

    assert [now[:2] for now in seen] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(now[2] for now in seen) == ["a.q", "b.q", "q"]


def test_an_empty_folder_may_be_given(tmp_path):
    (tmp_path / "out").mkdir()

    run(parents(tmp_path, "plain"), tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: (p.mkdir(), (p / "kept").write_text("x"))])
def test_what_exists_is_never_written_over(tmp_path, make):
    make(tmp_path / "out")

    with pytest.raises(DestinationError):
        run(parents(tmp_path, "plain"), tmp_path / "out")

    kept = tmp_path / "out" if (tmp_path / "out").is_file() else tmp_path / "out" / "kept"
    assert kept.read_text() == "x"


def test_a_missing_parent_folder_is_a_destination_error(tmp_path):
    with pytest.raises(DestinationError):
        run(parents(tmp_path, "plain"), tmp_path / "no" / "out")


@pytest.mark.parametrize("existed", [True, False])
def test_values_that_are_not_finite_are_refused_and_leave_nothing(tmp_path, existed):
    tensors, config = flavour("plain", 1)
    tensors["base_model.model.two.lora_B.weight"][3, 1] = float("nan")
    folder = write_adapter(tmp_path / "a", tensors, **config)
    if existed:
        (tmp_path / "out").mkdir()

    with pytest.raises(RefusedError) as caught:
        run([folder], tmp_path / "out", weights=[1.0])

    assert [(finding.rule, finding.where) for finding in caught.value.findings] == [("merge-values", "two")]
    assert (tmp_path / "out").exists() == existed
    assert not existed or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", ["svd", "cat"])
def test_results_too_large_for_their_dtype_are_refused(tmp_path, method):
    folder = parents(tmp_path, "plain")[0]

    with pytest.raises(RefusedError, match="does not fit float16"):
        run([folder], tmp_path / "out", weights=[1e12], method=method, dtype="fp16")

    assert not (tmp_path / "out").exists()


def test_an_interrupted_merge_leaves_nothing(tmp_path):
    def interrupt(*_now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parents(tmp_path, "plain"), tmp_path / "out", progress=interrupt)

    assert not (tmp_path / "out").exists()


def test_a_parent_that_shrinks_after_planning_is_unreadable(tmp_path):
    folder = parents(tmp_path, "plain")[0]
    planned = plan([Source(folder, 1.0)], method="svd")
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(planned.parents[0].header.file_size - 1)

    with pytest.raises(UnreadableError, match="ends inside tensor"):
        apply(planned, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_factors_are_read_as_they_are(tmp_path):
    tensors, config = flavour("plain", 1, torch.bfloat16)
    planned = plan([Source(write_adapter(tmp_path / "a", tensors, **config), 1.0)], method="svd")

    with FactorFile(planned.parents[0]) as file:
        assert all(torch.equal(file.read(name), tensor) for name, tensor in tensors.items())
