"""The methods from factors alone beside svd, and how their cost grows with modules and with total rank.

    .venv/bin/python benchmarks/merge_methods.py [--runs 9] [--svg cost.svg]

One thread, same tensors in memory, methods in turn; processor time, which a busy machine stretches less than the wall.
Promised: every method within 10 times svd at 4096 x 4096; cost linear in modules, at most quadratic in total rank.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

METHODS = ("svd", "cat", "slerp", "model_stock", "tsv_m", "knots_ties", "core_ties")
SHAPES = {"2 x r16": (2, 16), "8 x r64": (8, 64)}
MODULES = (1, 2, 4, 8, 16)
RANKS = (16, 32, 64, 128, 256, 512)
ALPHA_OVER_RANK = 2.0


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=9)
    options.add_argument("--svg", type=Path)
    given = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}, {given.runs} runs")
    beside_svd(torch, given.runs)
    by_modules(torch, max(3, given.runs // 3))
    curves = by_rank(torch, max(3, given.runs // 3))
    if given.svg:
        given.svg.write_text(plot(curves), encoding="utf-8")


def parents(torch, count, rank, size):
    from engine.merge import Part

    torch.manual_seed(0)
    return [Part(torch.randn(size, rank) * 0.02, torch.randn(rank, size) * 0.02, ALPHA_OVER_RANK) for _ in range(count)]


def combine(method, parts, rank):
    """From the factors to the factors of the result, nothing kept from the last time."""
    from engine.merge import METHODS as TABLE
    from engine.merge import Options, Parts, Site

    row = TABLE[method]
    weights = [1.0 / len(parts)] * len(parts)
    site = Site(weights=weights, rank=rank, options=Options(**row.defaults))
    return row.combine(Parts(parts), site).factors(rank)


def clock(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def in_turn(calls, runs):
    """Name to processor seconds; one round before that does not count."""
    times = {name: [] for name in calls}
    for place in range(runs + 1):
        for name, call in calls.items():
            seconds = clock(call)
            if place:
                times[name].append(seconds)
    return times


def beside_svd(torch, runs):
    print("\n| 4096 x 4096 | method | median ms | min | max | of svd | bound |\n|---|---|---|---|---|---|---|")
    for shape, (count, rank) in SHAPES.items():
        parts = parents(torch, count, rank, 4096)
        names = [name for name in METHODS if count == 2 or name != "slerp"]
        times = in_turn({name: partial(combine, name, parts, rank) for name in names}, runs)
        least = statistics.median(times["svd"])
        for name, seconds in times.items():
            ratio = statistics.median(seconds) / least
            held = "" if name in {"svd", "cat"} else "10 held" if ratio <= 10 else "10 MISSED"
            figures = " | ".join(f"{1e3 * x:.1f}" for x in (statistics.median(seconds), min(seconds), max(seconds)))
            print(f"| {shape} | {name} | {figures} | {ratio:.2f} | {held} |", flush=True)


def by_modules(torch, runs):
    """File to file: two r16 adapters of 1024 x 1024 modules."""
    from safetensors.torch import save_file

    from engine.merge import Source, merge

    print(
        f"\n| ms by modules | {' | '.join(map(str, MODULES))} | a module, 16 over 4 |\n|{'---|' * (len(MODULES) + 2)}"
    )
    rows = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for modules in MODULES:
            sources = [
                Source(adapter(torch, save_file, Path(folder, f"{modules}-{seed}"), modules, seed), 0.5)
                for seed in (1, 2)
            ]

            def run(name, sources=sources):
                with tempfile.TemporaryDirectory() as out:
                    merge(sources, method=name, out=Path(out, "out"), jobs=1)

            for name, seconds in in_turn({name: partial(run, name) for name in METHODS}, runs).items():
                rows[name].append(statistics.median(seconds))
    for name, medians in rows.items():
        ratio = (medians[-1] / MODULES[-1]) / (medians[2] / MODULES[2])
        print(f"| {name} | {' | '.join(f'{1e3 * x:.0f}' for x in medians)} | {ratio:.2f} |")


def adapter(torch, save_file, folder, modules, seed):
    import json

    torch.manual_seed(seed)
    folder.mkdir()
    names = [f"layers.{place}.proj" for place in range(modules)]
    tensors = {}
    for name in names:
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(16, 1024) * 0.02
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(1024, 16) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": names}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def by_rank(torch, runs):
    """Two parents of half the total rank each, 4096 x 4096. The exponent is that of the steepest doubling."""
    print(f"\n| ms by total rank | {' | '.join(map(str, RANKS))} | steepest exponent |\n|{'---|' * (len(RANKS) + 2)}")
    curves = {name: [] for name in METHODS}
    for total in RANKS:
        parts = parents(torch, 2, total // 2, 4096)
        calls = {name: partial(combine, name, parts, total // 2) for name in METHODS}
        for name, seconds in in_turn(calls, runs).items():
            curves[name].append(statistics.median(seconds))
    for name, medians in curves.items():
        exponent = max(math.log2(after / before) for before, after in pairwise(medians))
        print(f"| {name} | {' | '.join(f'{1e3 * x:.1f}' for x in medians)} | {exponent:.2f} |", flush=True)
    return curves


def plot(curves, width=640, height=420, margin=60):
    """Both axes logarithmic; the dashed line is quadratic."""
    high = max(map(max, curves.values()))
    low = min(map(min, curves.values()))

    def at(rank, seconds):
        x = margin + (width - 2 * margin) * math.log(rank / RANKS[0]) / math.log(RANKS[-1] / RANKS[0])
        y = height - margin - (height - 2 * margin) * math.log(seconds / low) / math.log(high / low)
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<text x="{margin}" y="30">Processor seconds by total rank, {low:.2g} to {high:.2g} s</text>',
    ]
    square = " ".join(at(rank, max(low, high * (rank / RANKS[-1]) ** 2)) for rank in RANKS)
    lines.append(f'<polyline points="{square}" fill="none" stroke="grey" stroke-dasharray="5"/>')
    for place, (name, medians) in enumerate(curves.items()):
        colour = f"hsl({360 * place // len(curves)},70%,40%)"
        points = " ".join(at(rank, seconds) for rank, seconds in zip(RANKS, medians, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        lines.append(f'<text x="{margin + 10}" y="{60 + 16 * place}" font-size="12" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    main()
