"""What it costs to load a hot-swap image: from its file into a slot of the engine, beside one memcpy of its bytes.

    .venv/bin/python benchmarks/hotswap_image.py [--runs 15] [--clock wall] [--dtypes bf16,fp32]

Adapters of Llama-3-8B's shape, r=16 on its seven linear modules. Promised: a file whose bytes the caller knows to be
right loads at 0.7 of memcpy's speed or more, from opening it to the numbers in the slot; beside it the same file with
the sha256 of its bytes, and the adapter's folder. Two files take turns, both in the page cache; one process, one
thread, sides in a changing order; medians with quartiles. Time on the wall; `--clock cpu` for a busy machine.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

os.environ["OMP_NUM_THREADS"] = "1"
PROMISED = 0.7


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=15)
    options.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    options.add_argument("--dtypes", default="bf16,fp32")
    given = options.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, 1 thread, {given.clock} time, load {load:.1f}, {given.runs} rounds")
    for name in given.dtypes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measure(torch, Path(folder), name, given.runs, clock)


def measure(torch, folder, name, runs, clock):
    from engine_swap import in_turn, ms, row

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[name]
    runtime, folders, files = two_files(torch, folder, dtype)
    source = torch.ones(runtime.status().slot_bytes // dtype.itemsize, dtype=dtype)
    target = torch.zeros_like(source)
    turns = itertools.cycle((0, 1))
    calls = {
        "memcpy": lambda: target.copy_(source),
        "image, bytes known": lambda: runtime.load("new", runtime.prepare(files[next(turns)], verified=True)),
        "image, sha256 of its bytes": lambda: runtime.load("new", files[next(turns)]),
        "folder": lambda: runtime.load("new", folders[next(turns)]),
    }
    after = {**dict.fromkeys(calls, lambda: runtime.unload("new")), "memcpy": lambda: None}
    seconds = in_turn(calls, runs, clock, after)
    print(f"\n### {name}, {source.nbytes / 1e6:.0f} MB\n\n| | ms | speed of memcpy | promised |\n|---|---|---|---|")
    memcpy = statistics.median(seconds["memcpy"])
    for told, found in seconds.items():
        speed = memcpy / statistics.median(found)
        row(told, ms(found), f"{speed:.2f}", f"≥ {PROMISED}" if told == "image, bytes known" else "")


def two_files(torch, folder, dtype):
    """A runtime with an adapter of the shape in a slot, and two more: their folders, and a file of images of each."""
    from engine_swap import runtime_8b, write_8b

    from engine.materialize.hotswap import write_images

    runtime = runtime_8b(torch, folder / "a", dtype)
    folders = [write_8b(torch, folder / f"{place}") for place in range(2)]
    files = [folder / f"{place}.safetensors" for place in range(2)]
    name = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    classes = {
        write_images({"x": one}, file, dtype=name).swap_class.digest for one, file in zip(folders, files, strict=True)
    }
    assert len(classes) == 1
    for file in files:
        file.read_bytes()
    return runtime, folders, files


if __name__ == "__main__":
    main()
