"""The plan that is data alone, traced whole: what is written into its tensors is seen, nothing is compiled again."""

import pytest
import torch

from engine.kernels.lora import add_lora
from engine.kernels.plans import Gather
from tests.engine.kernels.test_lora import assert_near, batch, by_loop, factors

SHAPE = (3, 33, 17)


@pytest.fixture
def traced():
    """(factors, index, a compiled call): a second graph raises."""
    torch._dynamo.reset()
    made, index = factors(SHAPE), torch.tensor([1, 0, 2, 5])

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=False)
    def call(y, x):
        return add_lora(y, x, made, Gather(index, x.shape[0] // 4))

    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        yield made, index, call
    torch._dynamo.reset()


def test_slots_factors_and_scales_written_in_place_are_seen(traced):
    made, index, call = traced
    y, x = batch([1, 0, 2, 5], 2, SHAPE)
    assert_near(call(y.clone(), x), by_loop(y, x, made, [1, 0, 2, 5], 2), 33)
    index.copy_(torch.tensor([0, 4, 4, 3]))
    made.A[4].mul_(-2.0)
    made.B[3].zero_()
    made.scales[4] = 7.0
    made.numbers[4] = 7.0

    found = call(y.clone(), x)

    assert_near(found, by_loop(y, x, made, [0, 4, 4, 3], 2), 33)
    assert torch.equal(found[:2], y[:2])


def test_more_tokens_are_compiled_again(traced):
    """The control: the guard above does see a second graph."""
    _, _, call = traced
    call(*batch([1, 0, 2, 5], 2, SHAPE))

    with pytest.raises(torch._dynamo.exc.RecompileError):
        call(*batch([1, 0, 2, 5], 4, SHAPE))
