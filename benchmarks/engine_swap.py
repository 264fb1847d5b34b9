"""What it costs to load an adapter and to swap one: ours beside one memcpy, and beside PEFT on the same files.

    .venv/bin/python benchmarks/engine_swap.py [--runs 15] [--clock wall] [--parts image,load,swap]

One process, one thread, sides in a changing order; medians with quartiles. `image`: a validated adapter of
Llama-3-8B's shape, r=16 on its seven linear modules, into a slot; promised: at most 1.3 of a copy of its bytes. `load`
and `swap`: 5 MB adapters of a random Llama (hidden 512, 8 layers) from files, beside PEFT's load_adapter with
low_cpu_mem_usage and its hotswap_adapter; promised: a load at least 5 times as fast as the 2nd adapter and 30 times as
the 50th, the 100th as fast as the 2nd; a swap at least 3 times as fast with 1 and with 50 adapters loaded. Processor
time, which a busy machine stretches less.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

os.environ["OMP_NUM_THREADS"] = "1"
EIGHT_B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
COUNTS = (1, 9, 49, 99)
"""Adapters that are loaded already when another is loaded."""
PEFTS_LAST = 49


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=15)
    options.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    options.add_argument("--parts", default="image,load,swap")
    given = options.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    print(
        f"torch {torch.__version__}, 1 thread, {given.clock} time, load {os.getloadavg()[0]:.1f}, {given.runs} rounds"
    )
    for part in given.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            {"image": images, "load": loads, "swap": swaps}[part](torch, Path(folder), given.runs, clock)


def images(torch, folder, runs, clock):
    head(
        "a validated image of Llama-3-8B's shape into a slot",
        ("numbers", "MB", "swap ms", "memcpy ms", "ratio", "promised"),
    )
    for dtype in (torch.bfloat16, torch.float32):
        runtime = runtime_8b(torch, folder / str(dtype), dtype)
        name = runtime.adapters[0]
        staged = runtime.prepare(runtime.status().adapters[0].path)
        source, target = staged.image.values.clone(), torch.zeros_like(staged.image.values)
        calls = {"swap": partial(runtime.swap, name, staged), "memcpy": partial(target.copy_, source)}
        seconds = in_turn(calls, runs, clock)
        ratio = statistics.median(seconds["swap"]) / statistics.median(seconds["memcpy"])
        row(
            str(dtype).removeprefix("torch."),
            f"{source.nbytes / 1e6:.0f}",
            ms(seconds["swap"]),
            ms(seconds["memcpy"]),
            f"{ratio:.2f}",
            "≤ 1.3",
        )


def loads(torch, folder, runs, clock):
    from engine_batches import write_adapter

    runtime, theirs = two_sides(torch, folder)
    paths = [write_adapter(torch, folder / f"x{place}", 1000 + place) for place in range(4)]
    head("another 5 MB adapter from its folder", ("loaded already", "ours ms", "PEFT ms", "PEFT / ours", "promised"))
    for count in COUNTS:
        while len(runtime.adapters) < count:
            runtime.load(f"a{len(runtime.adapters)}", paths[len(runtime.adapters) % 4])
        calls = {"ours": lambda: runtime.load("new", paths[0])}
        after = {"ours": lambda: runtime.unload("new")}
        if count <= PEFTS_LAST:
            while len(theirs.peft_config) < count:
                theirs.load_adapter(paths[0], adapter_name=f"a{len(theirs.peft_config)}", low_cpu_mem_usage=True)
            calls["peft"] = lambda: theirs.load_adapter(paths[0], adapter_name="new", low_cpu_mem_usage=True)
            after["peft"] = lambda: theirs.delete_adapter("new")
        seconds = in_turn(calls, runs, clock, after)
        compare(str(count), seconds, {1: "≥ 5", PEFTS_LAST: "≥ 30"}.get(count, ""))


def swaps(torch, folder, runs, clock):
    from engine_batches import write_adapter
    from peft.utils.hotswap import hotswap_adapter

    runtime, theirs = two_sides(torch, folder)
    paths = [write_adapter(torch, folder / f"x{place}", 1000 + place) for place in range(2)]
    head(
        "another 5 MB adapter from its folder in place of one",
        ("loaded", "ours ms", "PEFT ms", "PEFT / ours", "promised"),
    )
    for count in (1, 50):
        for place in range(1, count):
            runtime.load(f"a{place}", paths[0])
            theirs.load_adapter(paths[0], adapter_name=f"a{place}", low_cpu_mem_usage=True)
        runtime.activate("a0")
        calls = {
            "ours": lambda: runtime.swap("a0", random.choice(paths)),
            "peft": lambda: hotswap_adapter(theirs, random.choice(paths), "a0", torch_device="cpu"),
        }
        compare(str(count), in_turn(calls, runs, clock), "≥ 3")


def runtime_8b(torch, folder, dtype):
    """A runtime over a model of that shape without its weights, with one adapter in a slot and one slot free."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from engine.model.runtime import Runtime

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**EIGHT_B)).eval()
    runtime = Runtime(model, slots=2, target_rank=16, dtype=dtype)
    runtime.load("a", write_8b(torch, folder))
    runtime.activate("a")
    return runtime


def write_8b(torch, folder):
    import json

    from safetensors.torch import save_file

    wide, kept, inner = 4096, 1024, 14_336
    sizes = {
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (wide, kept),
        "self_attn.v_proj": (wide, kept),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (wide, inner),
        "mlp.up_proj": (wide, inner),
        "mlp.down_proj": (inner, wide),
    }
    tensors = {}
    for layer in range(32):
        for target, (fan_in, fan_out) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(16, fan_in).bfloat16()
            tensors[f"{name}.lora_B.weight"] = torch.randn(fan_out, 16).bfloat16()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = [target.partition(".")[2] for target in sizes]
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "target_modules": targets}))
    return folder


def two_sides(torch, folder):
    """Ours and PEFT, each on its own copy of one model, with one adapter each."""
    import copy

    from engine_batches import RANK, SHAPE, write_adapter
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    from engine.model.runtime import Runtime

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 1000})).eval()
    first = write_adapter(torch, folder / "a0", 0)
    theirs = PeftModel.from_pretrained(copy.deepcopy(model), first, adapter_name="a0").eval()
    runtime = Runtime(model, slots=8, target_rank=RANK)
    runtime.load("a0", first)
    return runtime, theirs


def in_turn(calls, runs, clock, after=None):
    """Side to seconds of each round; the first two rounds do not count. `after` a call is not timed."""
    seconds = {side: [] for side in calls}
    order = list(calls)
    shuffled = random.Random(1)
    for place in range(runs + 2):
        shuffled.shuffle(order)
        for side in order:
            start = clock()
            calls[side]()
            taken = clock() - start
            if after:
                after[side]()
            if place > 1:
                seconds[side].append(taken)
    return seconds


def compare(first, seconds, promised):
    theirs = seconds.get("peft")
    ratio = f"{statistics.median(theirs) / statistics.median(seconds['ours']):.1f}" if theirs else ""
    row(first, ms(seconds["ours"]), ms(theirs) if theirs else "", ratio, promised)


def ms(seconds):
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{1e3 * middle:.1f} ({1e3 * low:.1f}-{1e3 * high:.1f})"


def head(title, cells):
    print(f"\n{title}\n\n| {' | '.join(cells)} |\n|{'---|' * len(cells)}")


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
