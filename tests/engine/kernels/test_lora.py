"""Every plan's kernels against one plain loop in float64 over the tokens."""

import random

import pytest
import torch

from engine.kernels.choice import in_place, ordered, padded, rows_plan
from engine.kernels.lora import BY_DEVICE, REFERENCE, Factors, Op, add_lora, expand, shrink
from engine.kernels.plans import Gather, Padded, Segments, Whole

CPU = torch.device("cpu")
WORKLOADS = {
    "identical": [1, 1, 1, 1, 1, 1],
    "uniform": [3, 1, 2, 1, 3, 2],
    "zipf": [1, 2, 1, 3, 1, 1, 4, 1, 1],
    "distinct": [4, 2, 5, 1, 3],
    "one+base": [0, 2, 0, 2, 0, 0, 2],
}
"""The slot of each row."""
PLANS = {
    "chosen": rows_plan,
    "in_place": lambda rows, per_row, device: in_place(rows, per_row),
    "ordered": ordered,
    "padded": padded,
    "gather": lambda rows, per_row, device: Gather(torch.tensor(rows, dtype=torch.int64), per_row),
}
SHAPES = {"one by one": (1, 1, 1), "odd": (3, 33, 17), "rank 1": (1, 8, 12), "wide": (12, 130, 5)}
"""Largest rank, in, out."""


def factors(shape, slots=6, *, ranks=None, seed=0):
    """Slots as strided views of one arena as the engine lays them out, zero above each slot's rank, slot 0 all zeros."""
    rank, fan_in, fan_out = shape
    generator = torch.Generator().manual_seed(seed)
    size_a, size_b = rank * fan_in, fan_out * rank
    arena = torch.randn(slots, 7 + size_a + 5 + size_b, generator=generator)
    arena[0] = 0.0
    A = arena[:, 7 : 7 + size_a].view(slots, rank, fan_in)
    B = arena[:, 12 + size_a :].view(slots, fan_out, rank)
    ranks = ranks or [rank] * slots
    for slot, own in enumerate(ranks):
        A[slot, own:] = 0.0
        B[slot, :, own:] = 0.0
    numbers = [0.0] + [0.5 + slot for slot in range(1, slots)]
    return Factors(A, B, torch.tensor(numbers), numbers, ranks)


def by_loop(y, x, made, rows, per_row):
    """The truth, token by token."""
    y = y.double().clone()
    for token in range(len(x)):
        slot = rows[token // per_row]
        h = made.A[slot].double() @ x[token].double()
        y[token] += made.numbers[slot] * (made.B[slot].double() @ h)
    return y


def batch(rows, per_row, shape):
    generator = torch.Generator().manual_seed(9)
    tokens = len(rows) * per_row
    return torch.randn(tokens, shape[2], generator=generator), torch.randn(tokens, shape[1], generator=generator)


def assert_near(found, truth, reach):
    """Within float32's rounding of a sum of `reach` products of numbers near 1, times what the scales enlarge."""
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=2e-6 * reach)


@pytest.mark.parametrize("per_row", [1, 3, 8])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("rows", WORKLOADS.values(), ids=WORKLOADS)
def test_a_plan_gives_what_the_loop_gives_and_base_rows_their_bits(rows, plan, shape, per_row):
    made = factors(shape)
    y, x = batch(rows, per_row, shape)
    before = y.clone()

    found = add_lora(y, x, made, plan(rows, per_row, CPU))

    assert_near(found, by_loop(before, x, made, rows, per_row), shape[1])
    base = torch.tensor(rows).repeat_interleave(per_row) == 0
    assert torch.equal(found[base], before[base])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_slots_of_several_ranks_stand_in_one_batch(plan):
    shape, rows = (12, 33, 17), [1, 2, 3, 4, 5, 1, 0]
    made = factors(shape, ranks=[0, 1, 5, 12, 8, 3])
    y, x = batch(rows, 2, shape)
    before = y.clone()

    assert_near(add_lora(y, x, made, plan(rows, 2, CPU)), by_loop(before, x, made, rows, 2), 33)


@pytest.mark.parametrize("plan", ["chosen", "in_place", "ordered", "padded"])
def test_only_a_slots_own_rank_is_multiplied(plan):
    """What lies above the ranks is NaN here: a product that reached for it would show it."""
    shape, rows = (12, 33, 17), [1, 2, 1, 2]
    made = factors(shape, ranks=[0, 5, 5, 0, 0, 0])
    y, x = batch(rows, 1, shape)
    expected = by_loop(y, x, made, rows, 1)
    made.A[:, 5:] = float("nan")
    made.B[:, :, 5:] = float("nan")

    assert_near(add_lora(y, x, made, PLANS[plan](rows, 1, CPU)), expected, 33)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_what_other_slots_hold_never_leaks(plan):
    """Slot 2 lies between those of the batch, 4 and 5 beside them, all full of NaN."""
    shape, rows = (3, 33, 17), [3, 1, 0, 3, 3]
    made = factors(shape)
    y, x = batch(rows, 1, shape)
    expected = by_loop(y, x, made, rows, 1)
    for slot in (2, 4, 5):
        made.A[slot] = float("nan")
        made.B[slot] = float("nan")

    assert_near(add_lora(y, x, made, plan(rows, 1, CPU)), expected, 33)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_row_that_is_not_a_number_stays_alone(plan):
    shape, rows = (3, 33, 17), [3, 1, 0, 3, 3, 1]
    made = factors(shape)
    y, x = batch(rows, 1, shape)
    expected = by_loop(y, x, made, rows, 1)
    x[0] = float("nan")

    found = add_lora(y, x, made, plan(rows, 1, CPU))

    assert found[0].isnan().all()
    assert_near(found[1:], expected[1:], 33)


@pytest.mark.parametrize("plan", ["chosen", "in_place", "gather"])
@pytest.mark.parametrize("rows", [[], [0, 0, 0]], ids=["empty", "all base"])
def test_a_batch_without_adapters_is_given_back(rows, plan):
    y, x = batch(rows, 2, (3, 33, 17))
    before = y.clone()

    assert torch.equal(add_lora(y, x, factors((3, 33, 17)), PLANS[plan](rows, 2, CPU)), before)


def test_several_adapters_for_all_tokens_add_up_each_times_its_factor():
    shape = (3, 33, 17)
    made = factors(shape)
    y, x = batch([0, 0], 3, shape)
    truth = y.double()
    for slot, factor in ((2, 0.5), (4, -2.0)):
        truth = truth + factor * made.numbers[slot] * (x.double() @ made.A[slot].double().T @ made.B[slot].double().T)

    assert_near(add_lora(y, x, made, Whole((2, 4), (0.5, -2.0))), truth, 33)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_copy_into_a_slot_is_seen_by_the_next_call_of_a_plan(plan):
    shape, rows = (3, 33, 17), [2, 0, 1, 2]
    made, other = factors(shape), factors(shape, seed=5)
    y, x = batch(rows, 1, shape)
    made_plan = plan(rows, 1, CPU)
    add_lora(y.clone(), x, made, made_plan)
    made.A.copy_(other.A)
    made.B.copy_(other.B)

    assert_near(add_lora(y.clone(), x, made, made_plan), by_loop(y, x, other, rows, 1), 33)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_gradients_of_the_input_are_those_of_the_loop(plan):
    shape, rows = (3, 33, 17), [2, 0, 1, 2, 4]
    made = factors(shape)
    y, x = batch(rows, 1, shape)
    x.requires_grad_()
    ours, weights = (y * 1.0).requires_grad_(), torch.arange(17.0)  # a leaf, which must not be changed in place
    (add_lora(ours, x, made, plan(rows, 1, CPU)) @ weights).sum().backward()
    found, x.grad = x.grad, None

    (by_loop(y, x, made, rows, 1) @ weights.double()).sum().backward()

    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-2)
    assert torch.equal(ours.grad, weights.expand(5, 17))


def test_gradients_pass_an_adapter_for_all_tokens():
    made, ours = factors((3, 33, 17)), torch.zeros(2, 17, requires_grad=True)
    x = torch.ones(2, 33, requires_grad=True)
    add_lora(ours, x, made, Whole((2,), (1.0,))).sum().backward()

    expected = made.numbers[2] * (made.B[2].double().sum(0) @ made.A[2].double()).expand(2, 33)
    torch.testing.assert_close(x.grad.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.grad, torch.ones(2, 17))


def test_the_halves_are_the_whole():
    shape, rows = (3, 33, 17), [2, 0, 1]
    made, plan = factors(shape), padded([2, 0, 1], 1, CPU)
    y, x = batch(rows, 1, shape)

    halves = expand(y.clone(), shrink(x, made, plan), made, plan)

    assert torch.equal(halves, add_lora(y.clone(), x, made, plan))


def test_a_device_with_operations_of_its_own_uses_them(monkeypatch):
    told = Op(lambda x, factors, plan: x, lambda y, h, factors, plan: y + 41.0)
    monkeypatch.setattr("engine.kernels.lora.BY_DEVICE", {"cpu": {**REFERENCE, Whole: told}})
    y, x = batch([1], 1, (3, 33, 17))

    assert torch.equal(add_lora(y, x, factors((3, 33, 17)), Whole((1,), (1.0,))), y + 41.0)
    assert not BY_DEVICE


def test_no_plan_ever_names_a_slot_below_zero_or_above_those_of_the_batch():
    drawn = random.Random(0)
    for _ in range(300):
        rows = [drawn.choice([0, 1, 2, 5, 9]) for _ in range(drawn.randint(0, 9))]
        for plan in (rows_plan(rows, drawn.choice([1, 2, 40]), CPU), in_place(rows, 2), ordered(rows, 2, CPU)):
            named = {Whole: lambda p: p.slots, Segments: lambda p: [b[0] for b in p.bounds], Padded: lambda p: (p.low, p.high - 1)}[type(plan)](plan)  # fmt: skip
            assert set(named) <= set(rows) - {0}


@pytest.mark.parametrize("plan", [name for name in PLANS if name != "chosen"])
def test_a_broken_kernel_fails_these_tolerances(plan):
    """A last column of the rank left out, as a wrong mask would, is seen."""
    shape, rows = (12, 130, 5), WORKLOADS["uniform"]
    made, broken = factors(shape), factors(shape, ranks=[12, 12, 11, 12, 12, 12])
    y, x = batch(rows, 1, shape)
    found = add_lora(y.clone(), x, broken, PLANS[plan](rows, 1, CPU))

    with pytest.raises(AssertionError):
        assert_near(found, by_loop(y, x, made, rows, 1), 130)


def test_the_rule_takes_what_measured_fastest():
    """The cases of benchmarks/RESULTS.md whose fastest way is clear, and slots far from one another."""
    cases = {
        (1, 1, 1, 1): Whole,
        tuple(range(1, 9)): Padded,
        (1, 1, 1, 2, 2, 3, 4, 5): Padded,
        (1, 30, 1, 30, 7, 7, 1, 30): Segments,
    }
    assert {rows: type(rows_plan(rows, 1, CPU)) for rows in cases} == cases
    assert rows_plan((1, 2, 3, 1), 32, CPU) == in_place((1, 2, 3, 1), 32)
    assert rows_plan((1, 30, 1, 30, 7, 7, 1, 30), 1, CPU).order is not None
    assert rows_plan((1, 1, 9, 9, 30), 1, CPU).order is None
