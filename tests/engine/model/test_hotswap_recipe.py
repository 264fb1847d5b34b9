"""PEFT's own test of swaps without recompiling (its tests/test_gpu_examples.py), followed step by step for ours."""

import pytest
import torch
import torch._dynamo
import torch._inductor.config as inductor
from torch._dynamo.exc import RecompileError

from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(12).reshape(2, 6)
RANKS = [(11, 11), (7, 13), (13, 7)]
MODULES = ["q_proj", "v_proj", "down_proj"]
FORWARDS = 3
"""As many as CUDA graphs need: one to warm up, one to record, one to replay."""
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
PLACES = [
    pytest.param("cpu", {"backend": "eager"}, id="cpu"),
    pytest.param("cuda", {"mode": "reduce-overhead"}, id="cuda-graphs", marks=cuda),
]


@pytest.fixture(autouse=True)
def strict():
    """A second compilation fails; so does a CUDA graph that would be recorded again for another address."""
    torch._dynamo.reset()
    graphs = inductor.patch({"triton.cudagraph_support_input_mutation": False})
    with torch._dynamo.config.patch(error_on_recompile=True, inline_inbuilt_nn_modules=False), graphs:
        yield


def make(tmp_path, ranks, device):
    """A runtime on a model of its own there, the first adapter active, and the folders of both."""
    model = llama(num_hidden_layers=1)
    folders = [
        lora_folder(tmp_path / f"{seed}", model, seed=seed, r=rank, lora_alpha=rank, target_modules=MODULES)
        for seed, rank in enumerate(ranks)
    ]
    runtime = Runtime(model.to(device), slots=2, target_rank=max(ranks))
    runtime.load("default", folders[0])
    runtime.activate("default")
    return runtime, folders


def forwards(runtime, device):
    """The last of several results, on the host."""
    with torch.inference_mode():
        results = [runtime(IDS.to(device), use_cache=False).logits.cpu() for _ in range(FORWARDS)]
    return results[-1]


def eager(folder):
    """What a runtime that is neither sealed nor compiled gives for the adapter."""
    runtime = Runtime(llama(num_hidden_layers=1))
    runtime.load("only", folder)
    runtime.activate("only")
    return forwards(runtime, "cpu")


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("device", "compiled"), PLACES)
def test_a_swap_to_any_rank_up_to_the_target_runs_what_was_compiled(device, compiled, ranks, tmp_path):
    runtime, folders = make(tmp_path, ranks, device)
    wanted = [eager(folder) for folder in folders]
    runtime.seal(max_batch=1)
    runtime.model.compile(fullgraph=True, **compiled)
    close = {"rtol": 1e-4, "atol": 1e-4}

    torch.testing.assert_close(forwards(runtime, device), wanted[0], **close)
    runtime.swap("default", folders[1])
    torch.testing.assert_close(forwards(runtime, device), wanted[1], **close)
    runtime.swap("default", folders[0])
    torch.testing.assert_close(forwards(runtime, device), wanted[0], **close)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01


@pytest.mark.parametrize(("device", "compiled"), PLACES)
def test_the_control_another_adapter_loaded_and_activated_compiles_anew(device, compiled, tmp_path):
    """Without `seal` what is on is code: the same strictness sees that."""
    runtime, folders = make(tmp_path, RANKS[0], device)
    forwards(runtime, device)  # views that are made once are code too
    runtime.model.compile(fullgraph=True, **compiled)
    forwards(runtime, device)

    runtime.load("other", folders[1])
    runtime.activate("other")

    with pytest.raises(RecompileError):
        forwards(runtime, device)
