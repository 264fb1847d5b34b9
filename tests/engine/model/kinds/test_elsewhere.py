"""Every kind of layer in another layout, compiled, merged into the weights, and saved again."""

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import CASES, INPUTS
from tests.engine.model.kinds.test_kinds import close

IN_SUITE = {
    "linear",
    "linear dora and bias",
    "linear ia3",
    "embedding dora",
    "tokens",
    "conv1d bias all",
    "conv2d dora",
}
assert CASES.keys() >= IN_SUITE
TRACED = [pytest.param(name, marks=[] if name in IN_SUITE else [pytest.mark.slow]) for name in CASES]
"""Each sort of layer and each extra is traced in the suite, all that they are put together to in the long run."""


@torch.no_grad()
def test_a_layout_that_grows_and_is_larger_than_needed_changes_nothing(case):
    kind, folders, alone = case
    runtime = Runtime(oracle.seeded(kind), target_rank=12)
    for name, folder in reversed(folders.items()):
        runtime.load(name, folder)

    for name, expected in alone.items():
        runtime.activate(name)
        close(runtime(INPUTS[kind]), expected)


@pytest.mark.parametrize("case", TRACED, indirect=True)
@torch.no_grad()
def test_a_batch_by_rows_is_traced_as_one_graph(case, live):
    kind, _, alone = case
    runtime, base = live
    torch._dynamo.reset()
    runtime.seal(max_batch=4)
    compiled = torch.compile(runtime.model, backend="eager", fullgraph=True)

    for name in ("n0", "n1"):
        with runtime.batch([name, "__base__", name, "__base__"]):
            found = compiled(INPUTS[kind])
        close(found[0], alone[name][0])
        close(found[2], alone[name][2])
        close(found[1], base[1])


_CROSSES = "merge-convolution"
UNMERGEABLE = {
    "conv1d": {"n0": _CROSSES, "n1": _CROSSES, "n2": "merge-bias"},
    "conv1d dora": {"n0": _CROSSES, "n1": _CROSSES},
    "conv1d bias all": {"n1": _CROSSES},
    "conv2d": {"n0": _CROSSES, "n1": _CROSSES, "n2": _CROSSES},
    "conv2d dora": {"n0": _CROSSES, "n1": _CROSSES},
    "conv3d": {"n0": _CROSSES, "n1": _CROSSES},
}
"""Groups that A crosses, a base that does not pad with zeros, a bias for a layer that has none."""


@torch.no_grad()
def test_merged_weights_give_what_the_adapter_gives(request, case, live):
    kind, _, alone = case
    runtime, base = live
    refused = UNMERGEABLE.get(request.node.callspec.params["case"], {})
    for name, expected in alone.items():
        if name in refused:
            with pytest.raises(RefusedError) as error:
                runtime.merge(name)
            assert [finding.rule for finding in error.value.findings] == [refused[name]]
        else:
            runtime.merge(name)
            torch.testing.assert_close(runtime(INPUTS[kind]), expected, rtol=1e-5, atol=1e-4)
            runtime.unmerge()
        assert torch.equal(runtime(INPUTS[kind]), base)


def test_what_is_given_back_are_the_files_own_bytes(case, live):
    _, folders, _ = case
    runtime, _ = live
    for name, folder in folders.items():
        expected = load_file(folder / "adapter_model.safetensors")
        found = runtime.state_dict(name)

        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), key
