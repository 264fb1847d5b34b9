"""The ways to run a batch of several adapters, beside one another: the source of engine/kernels/choice.py.

    .venv/bin/python benchmarks/engine_plans.py [--runs 9] [--cases "zipf 32x1,distinct 8x4"]

Only the adapters' part: r=16 on the 56 linear modules of benchmarks/engine_batches.py's Llama, 33 slots of one arena,
float32, one thread, processor time of all modules, median. In brackets how often the rows' order changes the slot, and
how many places `padded` has for a row. `grouped` is torch.nn.functional.grouped_mm, `PEFT` a loop as PEFT writes it.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_batches import spread_names

MODULES = ((512, 512), (512, 512), (512, 512), (512, 512), (512, 1376), (512, 1376), (1376, 512)) * 8
RANK, SLOTS = 16, 33
CASES = [f"{spread} {batch}x1" for batch in (8, 32) for spread in ("uniform", "zipf", "distinct")]
CASES += ["distinct 8x2", "distinct 8x4", "uniform 32x4", "zipf 32x4", "distinct 8x8", "uniform 32x8", "zipf 32x8"]
CASES += ["distinct 8x16", "uniform 8x32", "zipf 8x32", "distinct 8x32"]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=9)
    options.add_argument("--cases", default=",".join(CASES))
    given = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    sites = factors(torch)
    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}, {given.runs} rounds")
    ways = ("in place", "ordered", "padded", "gather", "grouped", "PEFT")
    print(f"\n| rows x tokens (runs, places) | {' | '.join(ways)} | chosen |\n|{'---|' * (len(ways) + 2)}")
    for case in given.cases.split(","):
        spread, size = case.split()
        batch, tokens = map(int, size.split("x"))
        rows = [1 + int(name[1:]) for name in spread_names(spread, batch)]
        with torch.inference_mode():
            told, chosen, seconds = measure(torch, sites, rows, tokens, given.runs)
        cells = [f"{1e3 * statistics.median(seconds[way]):.1f}" for way in ways]
        print(f"| {case} ({told}) | {' | '.join(cells)} | {chosen} |", flush=True)


def factors(torch):
    """Every module's factors, as strided views of one arena."""
    from engine.kernels.lora import Factors

    torch.manual_seed(0)
    arena = torch.randn(SLOTS, sum(RANK * (fan_in + fan_out) for fan_in, fan_out in MODULES)) * 0.02
    numbers, sites, at = [0.0] + [2.0] * (SLOTS - 1), [], 0
    for fan_in, fan_out in MODULES:
        middle, stop = at + RANK * fan_in, at + RANK * (fan_in + fan_out)
        A, B = arena[:, at:middle].view(SLOTS, RANK, fan_in), arena[:, middle:stop].view(SLOTS, fan_out, RANK)
        sites.append(Factors(A, B, torch.tensor(numbers), numbers))
        at = stop
    return sites


def measure(torch, sites, rows, tokens, runs):
    from engine.kernels.choice import in_place, ordered, padded, rows_plan
    from engine.kernels.lora import add_lora
    from engine.kernels.plans import Gather, Padded

    device = torch.device("cpu")
    plans = {
        "in place": in_place(rows, tokens),
        "ordered": ordered(rows, tokens, device),
        "padded": padded(rows, tokens, device),
        "gather": Gather(torch.tensor(rows), tokens),
    }
    calls = {name: lambda y, x, site, plan=plan: add_lora(y, x, site, plan) for name, plan in plans.items()}
    calls |= {"grouped": grouped(torch, plans["ordered"]), "PEFT": loop(torch, rows, tokens)}
    inputs = {width: torch.randn(len(rows) * tokens, width) for width in (512, 1376)}
    seconds = {name: [] for name in calls}
    for place in range(runs + 1):
        for name, call in calls.items():
            outputs = {width: torch.zeros(len(rows) * tokens, width) for width in (512, 1376)}
            start = time.process_time()
            for site in sites:
                call(outputs[site.B.shape[1]], inputs[site.A.shape[2]], site)
            if place:
                seconds[name].append(time.process_time() - start)
    plan = rows_plan(rows, tokens, device)
    sort = "in place" if getattr(plan, "order", None) is None else "ordered"
    chosen = "padded" if isinstance(plan, Padded) else sort
    places = len(plans["padded"].take) / len(rows) / tokens
    told = f"{len(plans['in place'].bounds)}, {places:.1f}"
    return told, chosen, seconds


def grouped(torch, plan):
    """Runs of sorted tokens in one call for all slots, without copies of weights."""
    low, high = plan.bounds[0][0], plan.bounds[-1][0] + 1
    stops = torch.tensor([stop for _, _, stop in plan.bounds], dtype=torch.int32)
    product = torch.nn.functional.grouped_mm

    def call(y, x, site):
        h = product(x.index_select(0, plan.order), site.A[low:high].transpose(1, 2), offs=stops)
        h.mul_(2.0)
        y.index_add_(0, plan.order, product(h, site.B[low:high].transpose(1, 2), offs=stops))

    return call


def loop(torch, rows, tokens):
    def call(y, x, site):
        x, y = x.view(len(rows), tokens, -1), y.view(len(rows), tokens, -1)
        for slot in set(rows):
            places = [place for place, row in enumerate(rows) if row == slot]
            h = torch.nn.functional.linear(x[places], site.A[slot])
            y[places] += torch.nn.functional.linear(h, site.B[slot]) * 2.0

    return call


if __name__ == "__main__":
    main()
