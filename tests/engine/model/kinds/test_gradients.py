"""Gradients of every kind's numbers against PEFT's, and what an optimiser's step then does."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from engine.errors import InUseError
from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import CASES, INPUTS

_OTHER = {"tokens": 1}
"""A token that comes twice: PEFT gives both of its rows the gradient of the one that counts."""


def _peft_gradients(kind, folder):
    with oracle.quiet():
        model = PeftModel.from_pretrained(oracle.seeded(kind), folder, is_trainable=True).eval()
    (model(INPUTS[kind]) ** 2).sum().backward()
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def _laid(found, expected):
    """The part of a parameter that is on disk, as it lies there."""
    grad = found.grad
    if grad.dim() == 2 and expected.dim() == 2 and grad.shape[0] == 20 != expected.shape[0]:
        grad = grad.t()  # an embedding's A
    if grad.numel() != expected.numel():
        grad = grad[tuple(map(slice, expected.shape))]
    return grad.reshape(expected.shape)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_pefts(name, tmp_path):
    kind, configs = CASES[name]
    folder = oracle.saved(tmp_path / "a", oracle.seeded(kind), configs[_OTHER.get(name, 0)])
    expected = _peft_gradients(kind, folder)
    runtime = Runtime(oracle.seeded(kind))
    runtime.load("a", folder)
    parameters = runtime.parameters("a")
    runtime.activate("a")

    (runtime(INPUTS[kind]) ** 2).sum().backward()

    assert parameters.keys() == expected.keys()
    for key, wanted in expected.items():
        scale = float(wanted.abs().max()) + 1.0
        torch.testing.assert_close(_laid(parameters[key], wanted), wanted, rtol=1e-4, atol=2e-6 * scale, msg=key)


@pytest.mark.parametrize("name", ["linear dora", "linear adalora", "linear bias all", "embedding dora", "conv2d"])
def test_a_step_changes_the_next_forward_and_is_kept_by_settle(name, tmp_path):
    kind, configs = CASES[name]
    model = oracle.seeded(kind)
    with torch.no_grad():
        base = model(INPUTS[kind])
    runtime = Runtime(model)
    for place, config in enumerate(configs):
        runtime.load(f"n{place}", oracle.saved(tmp_path / f"n{place}", oracle.seeded(kind), config))
    runtime.activate("n0")
    before = runtime(INPUTS[kind]).detach()
    optimiser = torch.optim.SGD(runtime.parameters("n0").values(), lr=1e-3)

    (runtime(INPUTS[kind]) ** 2).mean().backward()
    optimiser.step()
    with torch.no_grad():
        after = runtime(INPUTS[kind])
        assert not torch.allclose(after, before, atol=1e-5)
        mixed = runtime(INPUTS[kind], adapter_names=["n0", "__base__", "n1", "n0"])
        torch.testing.assert_close(mixed[0], after[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(mixed[1], base[1])
        runtime.settle("n0")
        runtime.save("n0", tmp_path / "trained")

        torch.testing.assert_close(runtime(INPUTS[kind]), after, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            oracle.run(oracle.seeded(kind), [tmp_path / "trained"], INPUTS[kind]), after, rtol=1e-4, atol=1e-4
        )


def test_an_adapter_that_is_trained_is_not_swapped_nor_moved(tmp_path):
    kind, configs = CASES["linear"]
    folders = [
        oracle.saved(tmp_path / f"n{place}", oracle.seeded(kind), config) for place, config in enumerate(configs)
    ]
    runtime = Runtime(oracle.seeded(kind))
    runtime.load("a", folders[1])
    runtime.parameters("a")

    for call in (
        lambda: runtime.swap("a", folders[2]),
        lambda: runtime.parameters("a"),
        lambda: runtime.load("larger", folders[0]),
    ):
        with pytest.raises(InUseError, match="'a' is trained: its numbers are parameters; settle"):
            call()
    assert runtime.adapters == ("a",)
    runtime.settle("a")
    runtime.load("larger", folders[0])


def test_the_base_takes_no_gradient_through_a_runtime_of_its_own(tmp_path):
    kind, configs = CASES["linear"]
    model = oracle.seeded(kind).requires_grad_(False)
    runtime = Runtime(model)
    runtime.load("a", oracle.saved(tmp_path / "a", copy.deepcopy(oracle.seeded(kind)), configs[0]))
    runtime.parameters("a")
    runtime.activate("a")

    runtime(INPUTS[kind]).sum().backward()

    assert all(parameter.grad is None for parameter in model.parameters())
