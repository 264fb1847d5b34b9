"""DARE's draws: the published generator, what they depend on and what they do not."""

import functools
import hashlib

import numpy as np
import pytest
import torch

from engine.format.adapter import read_adapter
from engine.format.files.digest import tensors_digest
from engine.merge import Options, Part, RankRule, Source, merge
from engine.merge.dropping.masks import draws, mask, mask_key
from engine.merge.matrices.rows import filled, row_blocks
from engine.merge.methods import elements
from tests.engine.merge.elementwise import combined, dense, disjoint_mean, part, product
from tests.engine.merge.factories import deltas, distance, linear, write_adapter

KNOWN_ANSWERS = [
    (0, 0, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (2**256 - 1, 2**128 - 1, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
]
"""Counter, key and output of philox4x64-10 in Random123's kat_vectors."""


def words(draw):
    return [f"{high:08x}{low:08x}" for low, high in draw.reshape(-1, 2)]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_generator_is_the_published_one(counter, key, expected):
    assert words(draws(key, 8 * counter, 8)) == expected.split()


def test_the_key_is_a_hash_of_all_it_belongs_to():
    """The first 16 bytes, little-endian, of the canonical JSON's sha256."""
    text = b'[7,"sha256:ab","layers.0.q\\u00e4",1]'.replace(b"\\u00e4", "ä".encode())

    assert mask_key(7, "sha256:ab", "layers.0.qä", 1) == int.from_bytes(hashlib.sha256(text).digest()[:16], "little")


def test_keys_differ_by_seed_parent_module_and_group():
    keys = {mask_key(*one) for one in [(0, "a", "m", 0), (1, "a", "m", 0), (0, "b", "m", 0), (0, "a", "n", 0)]}

    assert len(keys | {mask_key(0, "a", "m", 1)}) == 5


@pytest.mark.parametrize("size", [1, 3, 7, 8, 13, 100])
def test_draws_do_not_depend_on_where_they_are_begun(size):
    whole = draws(5, 0, 300)

    pieces = [draws(5, start, min(size, 300 - start)) for start in range(0, 300, size)]

    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_share_kept_is_the_density(density):
    """A million draws: within five standard deviations."""
    kept = int(mask(11, density, 0, 1_000_000).sum())

    assert abs(kept - density * 1e6) < 5 * (1e6 * density * (1 - density)) ** 0.5


def test_masks_of_two_parents_are_independent():
    one, two = (mask(mask_key(0, name, "m", 0), 0.5, 0, 1_000_000) for name in "ab")

    assert abs(int((one & two).sum()) - 250_000) < 5 * (1e6 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("density", [2**-32, 1.0])
def test_the_ends_of_the_density(density):
    """The least that is kept of anything, and everything."""
    assert bool(mask(1, density, 0, 1000).all()) == (density == 1)


def test_blocks_cover_every_row_once():
    for shape, size in [((10, 7), 20), ((10, 7), 1), ((3, 1000), 10), ((5, 5), 1000)]:
        rows = [row for start, stop in row_blocks(shape, size=size) for row in range(start, stop)]
        assert rows == list(range(shape[0]))


def whole_numbers(seed):
    """So that products are exact whatever the shape of the blocks."""
    generator = torch.Generator().manual_seed(seed)
    return Part(*(torch.randint(-4, 5, shape, generator=generator).float() for shape in ((40, 3), (3, 30))), 2.0)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "ties", "magnitude_prune"])
def test_block_size_changes_no_bit(monkeypatch, method):
    parts = [whole_numbers(1), whole_numbers(2)]
    before = combined(method, parts, [0.5, -0.25], rank=4)
    for size in (1, 64, 1000):
        monkeypatch.setattr(elements, "filled", functools.partial(filled, size=size))

        after = combined(method, parts, [0.5, -0.25], rank=4)

        assert torch.equal(after.U, before.U)
        assert torch.equal(after.S, before.S)


def masked(one, name, density, *, rescale=True, seed=0):
    keeps = mask(mask_key(seed, name, "m", 0), density, 0, dense(one).size).numpy().reshape(dense(one).shape)
    return dense(one) * keeps / (density if rescale else 1.0)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("rescale", ["density", "none"])
@pytest.mark.parametrize("weights", [(1.0,), (0.7, -1.4), (0.5, 0.3, 0.2)])
def test_dare_is_its_definition_with_these_masks(density, rescale, weights):
    parts = [part(12, 20, 3, seed) for seed in range(len(weights))]
    pruned = [masked(one, name, density, rescale=rescale == "density") for one, name in zip(parts, "pqr", strict=False)]
    options = {"density": density, "rescale": rescale, "scale": 0.8}

    linear_found = product(combined("dare_linear", parts, weights, rank=12, **options), 12)
    ties_found = product(combined("dare_ties", parts, weights, rank=12, elect="unweighted", **options), 12)

    total = 0.8 * sum(weight * one for weight, one in zip(weights, pruned, strict=True))
    assert distance(linear_found, total) < 1e-6
    assert distance(ties_found, disjoint_mean(pruned, weights, elect="unweighted", scale=0.8)) < 1e-6


def folders(home):
    return [
        write_adapter(home / name, linear("m", inputs=20, outputs=12, rank=4, seed=seed))
        for seed, name in enumerate(("one", "two"), 1)
    ]


@pytest.mark.parametrize("elsewhere", [{"group": 1}, {"module": "n"}, {"seed": 1}, {"keys": ("x",)}])
def test_what_is_dropped_depends_on_group_module_seed_and_parent(elsewhere):
    one = part(12, 20, 3, 1)
    here, there = (product(combined("dare_linear", [one], [1.0], rank=12, **where), 12) for where in ({}, elsewhere))

    # Each of 240 elements is kept by one and dropped by the other with probability 1/2.
    assert 80 < np.count_nonzero((np.abs(here) > 1e-5) != (np.abs(there) > 1e-5)) < 160


def test_the_masks_of_a_merge_are_those_of_the_parents_digests(tmp_path):
    """From file to file, the digest read from the file where the source does not say it."""
    parents = folders(tmp_path)
    facts = [read_adapter(folder) for folder in parents]
    digests = [tensors_digest(one.weights, one.header) for one in facts]
    keeps = [mask(mask_key(3, digest, "m", 0), 0.5, 0, 240).numpy().reshape(12, 20) for digest in digests]
    expected = sum(0.5 * 2 * keep * deltas(folder)["m"] for keep, folder in zip(keeps, parents, strict=True))

    for place, given in enumerate([(None, None), digests, (digests[0], None)]):
        sources = [Source(folder, 0.5, digest=digest) for folder, digest in zip(parents, given, strict=True)]
        out = tmp_path / f"out{place}"
        merge(sources, method="dare_linear", rule=RankRule("max"), options=Options(seed=3), out=out)
        assert distance(deltas(out)["m"], expected) < 1e-6


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "ties", "magnitude_prune"])
def test_jobs_change_no_byte(tmp_path, method):
    tensors = [{}, {}]
    for place in range(4):
        for parent in (0, 1):
            tensors[parent] |= linear(f"m{place}", inputs=40, outputs=60, rank=4, seed=10 * place + parent)
    parents = [write_adapter(tmp_path / str(place), one) for place, one in enumerate(tensors)]
    sources = [Source(folder, 0.5) for folder in parents]

    found = set()
    for jobs in (1, 2, 3):
        merge(sources, method=method, jobs=jobs, out=tmp_path / f"out{jobs}")
        found.add((tmp_path / f"out{jobs}" / "adapter_model.safetensors").read_bytes())

    assert len(found) == 1


def test_another_seed_is_another_result_and_the_same_seed_the_same(tmp_path):
    parents = folders(tmp_path)
    results = []
    for place, seed in enumerate((None, 0, 1)):
        out = tmp_path / f"out{place}"
        sources = [Source(folder, 0.5) for folder in parents]
        merge(sources, method="dare_ties", options=Options(seed=seed), out=out)
        results.append((out / "adapter_model.safetensors").read_bytes())

    assert results[0] == results[1] != results[2]
