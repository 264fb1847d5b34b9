"""svd merge of two r=16 adapters at 4096 x 4096: ours, a plain NumPy QR route, and peft's dense route.

    .venv/bin/python benchmarks/merge_svd.py [--threads 2] [--peft-runs 3]

All three see the same tensors in memory, the same weights and the same number of threads, and give rank-16 factors in
float32. The runs of ours and NumPy's alternate. The error is against the float64 definition of the best approximation.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIZE, RANK, ALPHA, WEIGHTS = 4096, 16, 32, (0.6, 0.4)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--peft-runs", type=int, default=3)
    options.add_argument("--runs", type=int, default=101)
    given = options.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    run(given.threads, given.runs, given.peft_runs)


def run(threads, runs, peft_runs):
    import numpy as np
    import peft
    import torch

    torch.set_num_threads(threads)
    print(machine(threads), f"torch {torch.__version__}, numpy {np.__version__}, peft {peft.__version__}", sep="\n")
    model = peft_model(torch, peft)
    layer = model.base_model.model.layer
    pairs = [(layer.lora_B[name].weight.detach(), layer.lora_A[name].weight.detach()) for name in ("one", "two")]
    routes = {"ours": lambda: ours(torch, pairs), "numpy QR": lambda: numpy_qr(np, pairs)}
    times = {name: [] for name in routes}
    for _ in range(5):
        [route() for route in routes.values()]
    for _ in range(runs):
        for name, route in routes.items():
            times[name].append(clock(route))
    results = {name: route() for name, route in routes.items()}
    if peft_runs:
        times["peft svd"] = [clock(lambda place=place: peft_svd(model, f"merged{place}")) for place in range(peft_runs)]
        results["peft svd"] = layer.lora_B["merged0"].weight.detach(), layer.lora_A["merged0"].weight.detach()
    report(times, {name: error(torch, pairs, factors) for name, factors in results.items()})


def peft_model(torch, peft):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(SIZE, SIZE, bias=False))
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["layer"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="one")
    wrapped.add_adapter("two", config)
    return wrapped


def ours(torch, pairs):
    from engine.merge import METHODS, Part, Parts, Site

    parts = Parts([Part(B, A, ALPHA / RANK) for B, A in pairs])
    B, A = METHODS["svd"].combine(parts, Site(weights=WEIGHTS, rank=RANK)).factors(RANK)
    return B.to(torch.float32), A.to(torch.float32)


def numpy_qr(np, pairs):
    """The textbook: two QRs in float64, the SVD of the small core, two products."""
    B = np.concatenate(
        [(w * ALPHA / RANK) * b.numpy().astype(np.float64) for (b, _), w in zip(pairs, WEIGHTS, strict=True)], axis=1
    )
    A = np.concatenate([a.numpy().astype(np.float64) for _, a in pairs])
    Qb, Rb = np.linalg.qr(B)
    Qa, Ra = np.linalg.qr(A.T)
    U, S, Vt = np.linalg.svd(Rb @ Ra.T)
    root = np.sqrt(S[:RANK])
    left, right = Qb @ (U[:, :RANK] * root), (root[:, None] * Vt[:RANK]) @ Qa.T
    return left.astype(np.float32), right.astype(np.float32)


def peft_svd(model, name):
    model.add_weighted_adapter(
        ["one", "two"], list(WEIGHTS), name, combination_type="svd", svd_rank=RANK, svd_full_matrices=False
    )


def clock(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def error(torch, pairs, factors):
    """Distance from the weighted sum, over that of the best rank-16 approximation, minus one; and relative."""
    target = sum(w * ALPHA / RANK * (b.double() @ a.double()) for (b, a), w in zip(pairs, WEIGHTS, strict=True))
    B, A = (torch.as_tensor(factor).double() for factor in factors)
    Qb, Rb = torch.linalg.qr(
        torch.cat([w * ALPHA / RANK * b.double() for (b, _), w in zip(pairs, WEIGHTS, strict=True)], 1)
    )
    Qa, Ra = torch.linalg.qr(torch.cat([a.double() for _, a in pairs]).T)
    U, S, Vt = torch.linalg.svd(Rb @ Ra.T)
    best = (Qb @ (U[:, :RANK] * S[:RANK])) @ (Vt[:RANK] @ Qa.T)
    return float((target - B @ A).norm() / target.norm()), float((best - B @ A).norm() / best.norm())


def machine(threads):
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    cores = f"{os.cpu_count()} cores ({model}), {threads} threads"
    return f"{platform.machine()}, {cores}, load {load}, Python {platform.python_version()}"


def report(times, errors):
    mine = statistics.median(times["ours"])
    columns = f"{'median':>15}{'fastest':>15}{'slowest':>15}{'runs':>6}{'/ ours':>12}{'error':>14}{'off the best':>14}"
    print(f"\n{'route':10}{columns}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        figures = "".join(f"{value * 1e3:>12.2f} ms" for value in (median, min(seconds), max(seconds)))
        wrong, off = errors[name]
        print(f"{name:10}{figures}{len(seconds):>6}{median / mine:>12.2f}{wrong:>14.9f}{off:>14.2e}")


if __name__ == "__main__":
    main()
