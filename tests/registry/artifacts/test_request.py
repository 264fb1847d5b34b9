"""What a request may say: texts parsed at the edge, and options of another form refused by name."""

import json
from pathlib import Path

import pytest

from registry.artifacts.request import SHARD_SIZE, as_place, materialize_request
from registry.errors import UsageError
from registry.handle import Handle
from tests.factories import make_settings


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    handle = Handle(make_settings(tmp_path_factory.mktemp("home"), actor="ann"))

    def wanted(kind="merged", adapters=("team/a",), to="out", **options):
        return materialize_request(handle, adapters, kind, to, options)

    return wanted


def test_nothing_asked_for_is_told_in_full(ask):
    found = ask()

    assert (found.adapters, found.kind, found.to) == (("team/a",), "merged", Path.cwd() / "out")
    assert (found.weights, found.base, found.target, found.dtype, found.quantize) == ((1.0,), None, None, None, None)
    assert (found.rounding, found.seed, found.shard_size, found.rank) == ("nearest", 0, 5_000_000_000, None)
    assert not any((found.lossy, found.store, found.resume, found.dry_run))
    assert (found.jobs, found.actor) == (None, "ann")


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("out", "{cwd}/out"),
        ("./a/../out/", "{cwd}/out"),
        (Path("out"), "{cwd}/out"),
        ("/x/./y/../z", "/x/z"),
        ("~/out", "{home}/out"),
        ("日本", "{cwd}/日本"),
    ],
)
def test_a_place_is_absolute_without_dots(ask, to, expected):
    assert ask(to=to).to == Path(expected.format(cwd=Path.cwd(), home=Path.home()))


def test_a_path_object_is_a_folder_and_a_text_without_a_slash_before_it_a_reference(ask):
    found = ask(adapters=[Path("a"), "b", "./c"], base=Path("base"))

    assert found.adapters == (str(Path.cwd() / "a"), "b", "./c")
    assert found.base == str(Path.cwd() / "base")
    assert ask(base="base").base == "base"
    assert [as_place(text) for text in ("team/a", "a", "./a", "/a")] == [None, None, Path("a"), Path("/a")]


@pytest.mark.parametrize(
    ("given", "expected"), [((1,), "[1.0]"), ((-0.0,), "[0.0]"), ((True,), "[1.0]"), ((0,), "[0.0]")]
)
def test_equal_weights_are_one_text(ask, given, expected):
    """The recipe is a text, and its digest the artifact's identity."""
    assert json.dumps(ask(weights=given).weights) == expected


def test_a_seed_is_for_stochastic_rounding_alone(ask):
    """Elsewhere it would be taken and ignored."""
    for options in ({}, {"rounding": "nearest"}, {"rounding": None}):
        for seed in (0, 7):
            with pytest.raises(UsageError, match="--seed decides stochastic rounding") as caught:
                ask(seed=seed, **options)
            assert caught.value.hint == "--rounding stochastic --seed N"

    assert ask(rounding="stochastic", seed=7).seed == 7
    assert ask(rounding="stochastic").seed == 0


@pytest.mark.parametrize(
    ("kind", "count", "given", "expected"),
    [
        ("merged", 1, None, (1.0,)),
        ("merged", 4, None, (0.25, 0.25, 0.25, 0.25)),
        ("merged", 2, (0.7, -0.3), (0.7, -0.3)),
        ("merged", 1, (0,), (0,)),
        ("hotswap", 3, None, (1.0, 1.0, 1.0)),
        ("peft", 1, None, (1.0,)),
    ],
)
def test_merged_adapters_count_one_nth_each_and_images_whole(ask, kind, count, given, expected):
    found = ask(kind, [f"team/{number}" for number in range(count)], weights=given)

    assert found.weights == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, SHARD_SIZE), ("2GB", 2 * 10**9), ("1GiB", 2**30), ("200B", 200), ("7", 7), (7, 7)],
)
def test_a_shard_size_is_bytes_or_a_number_with_a_unit(ask, size, expected):
    assert ask(shard_size=size).shard_size == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "onnx"}, "as 'onnx': expected one of merged, hotswap, peft"),
        ({"kind": "MERGED"}, "as 'MERGED': expected one of merged, hotswap, peft"),
        ({"adapters": ()}, "nothing to materialise: expected at least one adapter"),
        ({"kind": "peft", "adapters": ("a", "b")}, "2 adapters: --as peft writes one"),
        ({"weights": ()}, "0 weights for 1 adapters"),
        ({"weights": (1.0, 1.0)}, "2 weights for 1 adapters"),
        ({"weights": (float("nan"),)}, "weights nan: expected finite numbers"),
        ({"weights": (float("inf"),)}, "weights inf: expected finite numbers"),
        ({"quantize": "int4"}, "quantize 'int4': expected one of nf4, int8"),
        ({"quantize": ""}, "quantize '': expected one of nf4, int8"),
        ({"rounding": "up"}, "rounding 'up': expected one of nearest, stochastic"),
        ({"seed": -1}, "seed -1: expected a whole number from 0"),
        ({"seed": 2**63}, "seed 9223372036854775808: expected a whole number"),
        ({"shard_size": 0}, "shard size 0: expected a positive number of bytes"),
        ({"shard_size": "0B"}, "shard size 0B: expected a positive number of bytes"),
        ({"shard_size": "2XB"}, "size '2XB': expected bytes, or a number with B"),
        ({"shard_size": -5}, "shard size -5: expected a positive number of bytes"),
        ({"kind": "hotswap", "rank": 0}, "rank 0: expected a positive number"),
        ({"jobs": 0}, "jobs 0: expected a positive number"),
    ],
)
def test_what_is_malformed_is_named(ask, options, message):
    with pytest.raises(UsageError, match=message):
        ask(**options)


@pytest.mark.parametrize(
    ("kind", "option", "of"),
    [
        *((kind, one, "merged") for kind in ("hotswap", "peft") for one in ("quantize", "rounding", "shard_size")),
        *((kind, one, "merged") for kind in ("hotswap", "peft") for one in ("weights", "seed", "lossy", "resume")),
        ("peft", "dtype", "merged"),
        ("merged", "rank", "hotswap"),
        ("merged", "for_engine", "peft"),
        ("hotswap", "for_engine", "peft"),
    ],
)
def test_an_option_of_another_form_is_refused_also_where_it_is_nought(ask, kind, option, of):
    values = {"quantize": "nf4", "rounding": "nearest", "shard_size": 1, "weights": (1.0,), "seed": 0, "rank": 0}
    values |= {"lossy": True, "resume": True, "dtype": "bf16", "for_engine": "vllm"}
    flag = {"for_engine": "--for"}.get(option, f"--{option.replace('_', '-')}")

    with pytest.raises(UsageError, match=f"{flag} is of --as {of}, not of --as {kind}"):
        ask(kind, **{option: values[option]})


@pytest.mark.parametrize("kind", ["hotswap", "peft"])
def test_what_the_command_line_leaves_unset_is_not_an_option_of_another_form(ask, kind):
    unset = {"lossy": False, "resume": False, "weights": None, "seed": None}

    assert ask(kind, **unset, store=True, dry_run=True, jobs=2).kind == kind
