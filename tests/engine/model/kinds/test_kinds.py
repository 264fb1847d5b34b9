"""Every kind of layer with everything that adapters put on it, against PEFT on the same files."""

import pytest
import torch

from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import INPUTS


def close(found, expected):
    """Within the rounding of four layers in float32, whose sums PEFT takes in another order."""
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-5)


@torch.no_grad()
def test_one_adapter_gives_what_peft_gives(case, live):
    runtime, base = live
    for name, expected in case[2].items():
        runtime.activate(name)

        close(runtime(INPUTS[case[0]]), expected)
        assert not torch.allclose(expected, base, atol=1e-2)


@torch.no_grad()
def test_several_adapters_give_what_peft_gives(case, live):
    kind, folders, _ = case
    runtime, _ = live
    if "tokens" in next(iter(folders.values())).parent.name:
        pytest.skip("PEFT has rows of tokens from one adapter at a time")
    runtime.activate(list(folders))

    close(runtime(INPUTS[kind]), oracle.run(oracle.seeded(kind), list(folders.values()), INPUTS[kind]))


@torch.no_grad()
def test_each_row_goes_through_its_own_adapter_and_base_rows_keep_their_bits(case, live):
    runtime, base = live
    names = [*list(case[1])[:2][::-1], "__base__", next(iter(case[1]))]

    found = runtime(INPUTS[case[0]], adapter_names=names)

    for row, name in enumerate(names):
        if name == "__base__":
            assert torch.equal(found[row], base[row])
        else:
            close(found[row], case[2][name][row])


@torch.no_grad()
def test_a_scale_of_nothing_is_the_base(case, live):
    runtime, base = live
    for name in case[1]:
        runtime.set_scale(name, 0.0)
    runtime.activate(list(case[1]))

    close(runtime(INPUTS[case[0]]), base)
