"""What a warm pull costs beside the command's own start: `adapters pull` of 50 MB that the cache holds.

    python benchmarks/pull_warm.py [--runs 15] [--size-mb 50]

Whole processes, in turn (A B C A B C …) so that a noisy moment hits all. `--version` is the interpreter and the command
line alone; a pull of one small adapter is all that a pull needs but the bytes (imports, catalog, locks); the difference
to the pull of the large one is what its bytes cost: every one of them is hashed. `sha256` is those bytes hashed once by
hashlib in this process.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

BIN = Path(sys.executable).parent
MODULES = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--size-mb", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pull-warm-", ignore_cleanup_errors=True) as place:
        environment = {**os.environ, "ADAPTERS_HOME": f"{place}/home"}
        large = make(Path(place) / "large", options.size_mb * 1_000_000)
        for folder in (large, make(Path(place) / "small", 10_000)):
            run(["push", str(folder), f"bench/{folder.name}"], environment)
        rows = {
            "adapters --version": ["--version"],
            "adapters list": ["list"],
            "pull 10 kB, warm": ["pull", "bench/small"],
            f"pull {options.size_mb} MB, warm": ["pull", "bench/large"],
        }
        seconds = {name: [] for name in rows}
        weights = large / "adapter_model.safetensors"
        seconds["sha256 alone"] = []
        for turn in range(options.runs + 2):
            for name, command in rows.items():
                cost = run(command, environment)
                if turn >= 2:  # the first pulls fill the cache
                    seconds[name].append(cost)
            if turn >= 2:
                seconds["sha256 alone"].append(hashing(weights))
    report(seconds, options.runs)


def make(folder, size):
    """A float32 LoRA adapter of about `size` bytes."""
    folder.mkdir()
    width, rank = 1024, max(1, size // (MODULES * 2 * 1024 * 4))
    draw = np.random.default_rng(0).standard_normal
    tensors = {}
    for number in range(MODULES if size > 1_000_000 else 1):
        name = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = draw((rank, width), dtype=np.float32)
        tensors[f"{name}.lora_B.weight"] = draw((width, rank), dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "bench/base",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run(arguments, environment):
    """(user + system, wall) seconds of one process."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([BIN / "adapters", *arguments], env=environment, check=True, capture_output=True)
    after, ended = os.times(), time.perf_counter()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, ended - began


def hashing(path):
    began = time.thread_time(), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        hashlib.file_digest(file, "sha256")
    return time.thread_time() - began[0], time.perf_counter() - began[1]


def report(seconds, runs):
    print(f"{runs} runs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':22}{'cpu median':>12}{'min':>8}{'max':>8}{'wall median':>14}{'min':>8}{'max':>8}")
    for name, rows in seconds.items():
        line = f"{name:22}"
        for room, values in zip((12, 14), zip(*rows, strict=True), strict=True):
            line += f"{statistics.median(values):{room}.3f}{min(values):8.3f}{max(values):8.3f}"
        print(line)
    *_, small, large = (name for name in seconds if name != "sha256 alone")
    pairs = zip(seconds[large], seconds[small], strict=True)
    cpu, wall = zip(*((one[0] - other[0], one[1] - other[1]) for one, other in pairs), strict=True)
    print("over the command's own start, turn by turn (bound 0.1 s):")
    print(
        f"cpu median {statistics.median(cpu):.3f} s, wall median {statistics.median(wall):.3f} s, min {min(wall):.3f} s"
    )


if __name__ == "__main__":
    main()
