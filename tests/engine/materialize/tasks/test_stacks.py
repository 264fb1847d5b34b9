"""What the tasks of one run share is read once, stays bounded, and is never of a file that has changed since."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import HeaderError
from engine.materialize import Request, Source, materialize
from engine.materialize.changes.experts import Expert
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.stored import numbers
from engine.materialize.stored.place import Place, plain
from engine.materialize.tasks.execute import execute
from engine.materialize.tasks.pool import threads
from engine.materialize.tasks.stacks import Shared, side_by_side
from engine.materialize.tasks.task import Task
from engine.materialize.verify import verify
from tests.engine.materialize.arrays import room, saved
from tests.engine.materialize.matching.judge import saved as saved_model
from tests.engine.model.live import lora_folder
from tests.engine.model.test_replaced import mixtral

OUT, IN, RANK = 12, 10, 2


@pytest.fixture
def read(monkeypatch):
    """(file's name, bytes) of every read of whole tensors, as they happen."""
    seen, fill = [], numbers.fill

    def counted(descriptor, file, data, offset):
        seen.append((file.name, len(data)))
        fill(descriptor, file, data, offset)

    monkeypatch.setattr(numbers, "fill", counted)
    return seen


def mixture(folder, experts, *, dtype=torch.bfloat16):
    """The places of A and B of a mixture, in random numbers."""
    chance = torch.Generator().manual_seed(experts)
    shapes = {"A": (RANK * experts, IN), "B": (OUT, RANK * experts)}
    held = {name: torch.randn(*shape, generator=chance).to(dtype) for name, shape in shapes.items()}
    return saved(folder / "adapter.safetensors", held)


def tasks_of(folder, experts):
    """One task per expert and half of B, as gate and up are stored, in the order of experts."""
    folder.mkdir()
    held, tasks = mixture(folder, experts), []
    base = saved(folder / "base.safetensors", {"w": torch.ones(OUT // 2, IN).bfloat16()})
    for expert in range(experts):
        for half in range(2):
            A, B = held["A"].rows(expert * RANK, RANK), held["B"].rows(half * OUT // 2, OUT // 2)
            target = room(folder / f"{expert}.{half}", "BF16", (OUT // 2, IN))
            change = Expert(A, B, 0.5, expert, experts)
            tasks.append(Task(f"{expert}.{half}", plain(base["w"]), target, (change,)))
    return tasks


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("experts", [4, 16, 64])
def test_a_run_reads_every_number_of_the_factors_once_for_b_and_once_per_half_for_a(tmp_path, read, experts, jobs):
    """Each expert on its own would read all of B, and the bytes would grow with the square of the experts."""
    tasks = tasks_of(tmp_path / "run", experts)
    list(threads(tasks, jobs=jobs))
    A, B = RANK * experts * IN * 2, OUT * RANK * experts * 2
    assert sum(size for file, size in read if file == "adapter.safetensors") == 2 * A + B


def test_a_task_alone_gives_what_it_gives_in_a_run(tmp_path):
    """Another process may take any one of them."""
    together = {one.name: one for one in threads(tasks_of(tmp_path / "run", 5), jobs=2)}
    apart = [execute(task) for task in reversed(tasks_of(tmp_path / "alone", 5))]
    assert {one.name: one for one in apart} == together
    assert len({one.digests[""] for one in apart}) == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_stack_is_b_by_expert_in_its_own_dtype(tmp_path, dtype):
    """PEFT keeps B as (out, rank, experts), flat."""
    B = mixture(tmp_path, 3, dtype=dtype)["B"]
    found = Shared()(B, 3)
    whole = numbers.tensor_at(B)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert torch.equal(found, torch.stack([whole[:, expert::3] for expert in range(3)]))


def test_whoever_asks_meanwhile_waits_and_gets_the_same(tmp_path, read, monkeypatch):
    """The first read lasts until a second begins, or none does."""
    B, shared = mixture(tmp_path, 8)["B"], Shared()
    met, fill = Barrier(2), numbers.fill

    def slow(*arguments):
        with suppress(BrokenBarrierError):
            met.wait(0.2)
        fill(*arguments)

    monkeypatch.setattr(numbers, "fill", slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shared(B, 8), range(40)))
    assert all(one is found[0] for one in found)
    assert len(read) == 1


def test_a_file_that_changed_is_read_again(tmp_path):
    file = tmp_path / "adapter.safetensors"
    B, shared = saved(file, {"B": torch.zeros(4, 6)})["B"], Shared()
    assert not shared(B, 3).any()
    save_file({"B": torch.ones(4, 6)}, file, metadata={"format": "pt"})
    assert shared(B, 3).all()


def test_parts_of_one_file_and_other_numbers_of_experts_are_kept_apart(tmp_path):
    B, shared = mixture(tmp_path, 6)["B"], Shared()
    assert torch.equal(shared(B.rows(6, 6), 6), shared(B, 6)[:, 6:])
    assert shared(B, 3).shape == (3, OUT, 4)
    assert shared(B, 6).shape == (6, OUT, 2)


def test_the_longest_unused_goes_when_the_limit_is_passed(tmp_path, read):
    """Three halves of which two fit."""
    parts = [mixture(tmp_path, 6)["B"].rows(first, 4) for first in (0, 4, 8)]
    shared = Shared(limit=2 * parts[0].size)
    for part in (0, 1, 0, 2, 0):
        shared(parts[part], 6)
    assert len(read) == 3
    shared(parts[1], 6)
    assert len(read) == 4


def test_a_stack_beyond_the_limit_is_kept_until_the_next(tmp_path, read):
    one, other = (mixture(tmp_path, 6)["B"].rows(first, 6) for first in (0, 6))
    shared = Shared(limit=0)
    for part, times in ((one, 1), (one, 1), (other, 2), (one, 3)):
        shared(part, 6)
        assert len(read) == times


def test_an_error_is_told_to_all_who_ask_and_not_kept(tmp_path):
    B, shared = mixture(tmp_path, 4)["B"], Shared()
    whole = B.file.read_bytes()
    B.file.write_bytes(whole[: B.offset + 3])
    for _ in range(2):
        with pytest.raises(HeaderError, match="became shorter"):
            shared(B, 4)
    B.file.write_bytes(whole)
    assert shared(B, 4).shape == (4, OUT, RANK)


def test_tasks_that_share_stand_together_where_the_first_of_them_stood():
    """All others keep their places; two adapters' factors are shared as a pair."""

    def place(name):
        return Place(Path(name), 0, "F32", (4, 6))

    def task(name, *stacks):
        return Task(
            name, plain(place("w")), plain(place("o")), tuple(Expert(place("A"), place(B), 1.0, 0, 3) for B in stacks)
        )

    plain_change = Task("q", plain(place("w")), plain(place("o")), (LowRank(place("A"), place("B"), 1.0),))
    mixed = [task("a1", "u"), task("n"), task("b1", "d"), task("a2", "u"), plain_change, task("c1", "u", "d"), task("b2", "d"), task("a3", "u"), task("c2", "u", "d")]  # fmt: skip
    assert [one.name for one in side_by_side(mixed)] == ["a1", "a2", "a3", "n", "b1", "b2", "q", "c1", "c2"]


def test_a_run_takes_them_in_that_order(tmp_path):
    """Gates of all experts, then ups: at most one stack per worker is needed at a time."""
    begun, tasks = [], tasks_of(tmp_path / "run", 4)

    def work(task, stacks):
        begun.append(task.name)
        return execute(task, stacks)

    list(threads(tasks, jobs=1, work=work))
    assert begun == ["0.0", "1.0", "2.0", "3.0", "0.1", "1.1", "2.1", "3.1"]


def test_a_checkpoint_of_single_experts_reads_an_adapter_of_all_once(tmp_path, read):
    """And verifying it against its sources does the same."""
    model = mixtral()
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    adapter = lora_folder(tmp_path / "a", model, r=4, target_modules=["q_proj"], target_parameters=targets)
    base = saved_model(model, tmp_path / "base")
    request, sources = Request(base=base, sources=(Source(adapter),)), [Source(adapter)]
    materialize(request, tmp_path / "out", jobs=2)
    made = [size for file, size in read if file == "adapter_model.safetensors"]
    read.clear()
    verify(tmp_path / "out", base, sources, jobs=2)
    again = [size for file, size in read if file == "adapter_model.safetensors"]
    with (adapter / "adapter_model.safetensors").open("rb") as file:
        data = (adapter / "adapter_model.safetensors").stat().st_size - int.from_bytes(file.read(8), "little") - 8
    # gate and up read their experts' A each, two layers of (4·4, 32) float32.
    assert sum(made) == sum(again) == data + 2 * 4 * 4 * 32 * 4
