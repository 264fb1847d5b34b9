"""One tensor of the result: added in float32, rounded once, copied where nothing changes it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import HeaderError, RefusedError
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.stored import blocks as module
from engine.materialize.stored.blocks import row_blocks
from engine.materialize.stored.place import Stored, plain
from engine.materialize.tasks.execute import execute
from engine.materialize.tasks.pool import threads
from engine.materialize.tasks.task import Task
from tests.engine.materialize.arrays import room, saved

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def numbers(stored):
    place = stored.parts[""]
    held = torch.frombuffer(bytearray(place.file.read_bytes()), dtype=torch.uint8)
    return held.view(DTYPES[place.dtype]).reshape(place.shape)


@pytest.fixture
def files(tmp_path):
    random = torch.Generator().manual_seed(3)
    base = saved(
        tmp_path / "base.safetensors",
        {
            "bf16": torch.randn(700, 400, generator=random).bfloat16(),
            "f32": torch.randn(700, 400, generator=random),
            "large": torch.full((4, 4), 60000.0).half(),
            "wide": torch.full((4, 4), 1e30),
            "masked": torch.full((4, 4), float("-inf")),
        },
    )
    factors = saved(
        tmp_path / "adapter.safetensors",
        {
            "A": torch.randn(8, 400, generator=random).bfloat16(),
            "B": torch.randn(700, 8, generator=random).bfloat16(),
            "A4": torch.ones(1, 4),
            "B4": torch.full((4, 1), 9000.0),
        },
    )
    return {**base, **factors}


def tensor(files, name):
    return load_file(files[name].file)[name]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("source", ["bf16", "f32"])
def test_several_changes_are_added_in_float32_and_rounded_once(files, tmp_path, source, dtype):
    changes = (LowRank(files["A"], files["B"], 0.5), LowRank(files["A"], files["B"], -0.125))
    target = room(tmp_path / "out", dtype, (700, 400))
    written = execute(Task("w", plain(files[source]), target, changes))
    exact = tensor(files, source).double() + 0.375 * tensor(files, "B").double() @ tensor(files, "A").double()
    found = numbers(target).double()
    # Half a unit in the last place of the dtype, and what float32 sums of 8 products may lose.
    half = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}[dtype]
    assert ((found - exact).abs() <= half * exact.abs() + 1e-5).all()
    assert written.digests == {"": hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()}
    assert written.sums.elements == 280_000


def test_rows_are_added_once_whatever_the_block(files, tmp_path, monkeypatch):
    """Blocks that do not divide the rows change no byte."""
    change = (LowRank(files["A"], files["B"], 1.0),)
    whole, blocks = room(tmp_path / "whole", "BF16", (700, 400)), room(tmp_path / "blocks", "BF16", (700, 400))
    execute(Task("w", plain(files["bf16"]), whole, change))
    monkeypatch.setattr(module, "BLOCK", 400 * 97)
    execute(Task("w", plain(files["bf16"]), blocks, change))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes()


def test_a_transposed_weight_gets_the_transposed_change(files, tmp_path):
    base = saved(tmp_path / "t.safetensors", {"w": torch.zeros(400, 700)})
    target = room(tmp_path / "out", "F32", (400, 700))
    execute(Task("w", plain(base["w"]), target, (LowRank(files["A"], files["B"], 2.0, transposed=True),)))
    expected = 2 * (tensor(files, "B").double() @ tensor(files, "A").double()).T
    assert (numbers(target).double() - expected).abs().max() < 1e-4


def test_without_a_change_the_bytes_stay_and_are_not_decoded(files, tmp_path):
    """A signalling NaN survives only where nothing looks at it as a number."""
    pattern = torch.tensor([[0x7F81, 0x0001, -0x8000 + 1]], dtype=torch.int16)
    base = saved(tmp_path / "nan.safetensors", {"w": pattern.view(torch.bfloat16)})
    target = room(tmp_path / "out", "BF16", (1, 3))
    written = execute(Task("w", plain(base["w"]), target))
    assert torch.equal(numbers(target).view(torch.int16), pattern)
    assert written.digests[""] == hashlib.sha256(pattern.numpy().tobytes()).hexdigest()
    assert written.sums.elements == 0


def test_a_cast_rounds_and_keeps_what_was_infinite(files, tmp_path):
    cast, masked = room(tmp_path / "cast", "BF16", (700, 400)), room(tmp_path / "masked", "F16", (4, 4))
    execute(Task("w", plain(files["f32"]), cast))
    execute(Task("m", plain(files["masked"]), masked))
    assert torch.equal(numbers(cast), tensor(files, "f32").bfloat16())
    assert torch.isneginf(numbers(masked)).all()


def test_a_cast_that_makes_a_number_infinite_is_refused(files, tmp_path):
    with pytest.raises(RefusedError, match=r"^big: .*more than its dtype does"):
        execute(Task("big", plain(files["wide"]), room(tmp_path / "out", "F16", (4, 4))))


def test_a_sum_beyond_the_dtype_is_refused(files, tmp_path):
    change = LowRank(files["A4"], files["B4"], 1.0)
    with pytest.raises(RefusedError, match=r"^w: .*infinite"):
        execute(Task("w", plain(files["large"]), room(tmp_path / "out", "F16", (4, 4)), (change,)))
    execute(Task("w", plain(files["large"]), room(tmp_path / "wide", "F32", (4, 4)), (change,)))


def test_numbers_too_large_to_square_are_no_reason_to_refuse(files, tmp_path):
    """1e30 squared is more than float32 holds, 1e30 is not."""
    base = saved(tmp_path / "z.safetensors", {"w": torch.zeros(4, 4)})
    factors = saved(tmp_path / "b.safetensors", {"A": torch.ones(1, 4), "B": torch.full((4, 1), 1e30)})
    target = room(tmp_path / "out", "F32", (4, 4))
    execute(Task("w", plain(base["w"]), target, (LowRank(factors["A"], factors["B"], 1.0),)))
    assert (numbers(target) == torch.tensor(1e30)).all()


def test_a_source_that_became_shorter_is_named(files, tmp_path):
    place = files["f32"]
    with place.file.open("r+b") as file:
        file.truncate(place.offset + place.size // 2)
    for task in (
        Task("w", plain(place), room(tmp_path / "a", "F32", (700, 400))),
        Task("w", plain(place), room(tmp_path / "b", "BF16", (700, 400))),
    ):
        with pytest.raises(HeaderError, match="became shorter"):
            execute(task)


def test_stochastic_rounding_follows_the_seed_and_keeps_the_mean(tmp_path):
    base = saved(tmp_path / "ones.safetensors", {"w": torch.ones(512, 512).bfloat16()})
    factors = saved(tmp_path / "ab.safetensors", {"A": torch.ones(1, 512), "B": torch.full((512, 1), 2.0**-11)})
    change = (LowRank(factors["A"], factors["B"], 1.0),)

    def made(name, seed):
        target = room(tmp_path / name, "BF16", (512, 512))
        sums = execute(Task("w", plain(base["w"]), target, change, seed)).sums
        return numbers(target).double(), sums

    nearest, lost = made("nearest", None)
    first, kept = made("first", 1)
    again, _ = made("again", 1)
    other, _ = made("other", 2)
    assert lost.swallowed_share == 1.0
    assert (nearest == 1).all()
    # A sixteenth of the elements goes up by 1/128: 2^-11 on average; five standard deviations of that share.
    assert abs(float(first.mean()) - 1 - 2.0**-11) < 5 * 2.0**-7 * (1 / 16 * 15 / 16 / 512**2) ** 0.5
    assert kept.kept_share == pytest.approx(1.0, abs=0.02)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_experts_are_worked_through_by_rows_not_whole(tmp_path, monkeypatch):
    """A stack of 3 experts folded to 3*40 rows gives the same bytes as its plain copy, in blocks of a few rows."""
    monkeypatch.setattr(module, "BLOCK", 200)
    stack = torch.randn(3, 40, 50)
    base = saved(tmp_path / "e.safetensors", {"w": stack})
    source = Stored("plain", (3, 40, 50), {"": base["w"]}, fold=2)
    assert source.matrix == (120, 50)
    target = room(tmp_path / "out", "BF16", (3, 40, 50))
    execute(Task("w", source, Stored("plain", (3, 40, 50), target.parts, fold=2)))
    assert torch.equal(numbers(target), stack.bfloat16())


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [(5, 1 << 16, [(0, 2), (2, 4), (4, 5)]), (2, 1 << 20, [(0, 1), (1, 2)]), (3, 0, [(0, 3)]), (0, 7, [])],
)
def test_blocks_are_whole_rows_of_about_a_cache(rows, columns, expected):
    assert list(row_blocks(rows, columns)) == expected


def test_any_number_of_threads_writes_the_same_bytes(files, tmp_path):
    change = (LowRank(files["A"], files["B"], 0.5),)

    def made(folder, jobs):
        folder.mkdir()
        tasks = [
            Task(f"w{n}", plain(files["bf16"]), room(folder / f"w{n}", "BF16", (700, 400)), change) for n in range(5)
        ]
        done = {one.name: one for one in threads(tasks, jobs=jobs)}
        return done, [(folder / f"w{n}").read_bytes() for n in range(5)]

    assert made(tmp_path / "one", 1) == made(tmp_path / "four", 4)


def test_threads_begun_afterwards_compute_with_as_many_cores_as_before(files, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(threads([Task("w", plain(files["bf16"]), room(tmp_path / "w", "BF16", (700, 400)))], jobs=1))
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_the_first_error_of_a_thread_is_raised(files, tmp_path):
    broken = Task("big", plain(files["wide"]), room(tmp_path / "out", "F16", (4, 4)))
    with pytest.raises(RefusedError, match=r"^big"):
        list(threads([broken] * 3, jobs=2))
