"""svd merge of adapters at 4096 x 4096, two of r=16 unless said: ours, a plain NumPy QR route, and peft's dense route.

    .venv/bin/python benchmarks/merge_svd.py [--parents 8] [--rank 64] [--threads 2] [--peft-runs 3] [--processor]

All three see the same tensors in memory, the same weights and the same number of threads, and give factors of the
parents' rank in float32. The runs of ours and NumPy's alternate. The error is against the float64 definition of the
best approximation: `over the best` is ‖D - BA‖/‖D - D_k‖ - 1. `--processor` takes processor time for the wall's, which
other work on the machine stretches less.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIZE = 4096


@dataclass(frozen=True)
class Setting:
    """So many parents of one rank, scaling 2, the first weighing half as much again as the last."""

    parents: int
    rank: int

    @property
    def weights(self):
        return [0.6 - 0.2 * place / (self.parents - 1) for place in range(self.parents)]

    @property
    def names(self):
        return [f"p{place}" for place in range(self.parents)]


SCALING = 2.0


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--peft-runs", type=int, default=3)
    options.add_argument("--runs", type=int, default=101)
    options.add_argument("--parents", type=int, default=2)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--processor", action="store_true")
    given = options.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    run(given, Setting(given.parents, given.rank), time.process_time if given.processor else time.perf_counter)


def run(given, setting, timer):
    import numpy as np
    import peft
    import torch

    torch.set_num_threads(given.threads)
    print(
        machine(given.threads), f"torch {torch.__version__}, numpy {np.__version__}, peft {peft.__version__}", sep="\n"
    )
    print(f"{setting.parents} parents of r={setting.rank}, {timer.__name__}")
    model = peft_model(torch, peft, setting)
    layer = model.base_model.model.layer
    pairs = [(layer.lora_B[name].weight.detach(), layer.lora_A[name].weight.detach()) for name in setting.names]
    routes = {"ours": lambda: ours(torch, pairs, setting), "numpy QR": lambda: numpy_qr(np, pairs, setting)}
    times = {name: [] for name in routes}
    for _ in range(min(5, given.runs)):
        [route() for route in routes.values()]
    for _ in range(given.runs):
        for name, route in routes.items():
            times[name].append(clock(route, timer))
    results = {name: route() for name, route in routes.items()}
    if given.peft_runs:
        merges = [lambda place=place: peft_svd(model, setting, f"merged{place}") for place in range(given.peft_runs)]
        times["peft svd"] = [clock(merge, timer) for merge in merges]
        results["peft svd"] = layer.lora_B["merged0"].weight.detach(), layer.lora_A["merged0"].weight.detach()
    report(times, errors(torch, pairs, setting, results))


def peft_model(torch, peft, setting):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(SIZE, SIZE, bias=False))
    config = peft.LoraConfig(
        r=setting.rank, lora_alpha=SCALING * setting.rank, target_modules=["layer"], init_lora_weights=False
    )
    wrapped = peft.get_peft_model(model, config, adapter_name=setting.names[0])
    for name in setting.names[1:]:
        wrapped.add_adapter(name, config)
    return wrapped


def ours(torch, pairs, setting):
    from engine.merge import METHODS, Part, Parts, Site

    parts = Parts([Part(B, A, SCALING) for B, A in pairs])
    B, A = METHODS["svd"].combine(parts, Site(weights=setting.weights, rank=setting.rank)).factors(setting.rank)
    return B.to(torch.float32), A.to(torch.float32)


def numpy_qr(np, pairs, setting):
    """The textbook: two QRs in float64, the SVD of the small core, two products."""
    B = np.concatenate(
        [w * SCALING * b.numpy().astype(np.float64) for (b, _), w in zip(pairs, setting.weights, strict=True)], axis=1
    )
    A = np.concatenate([a.numpy().astype(np.float64) for _, a in pairs])
    Qb, Rb = np.linalg.qr(B)
    Qa, Ra = np.linalg.qr(A.T)
    U, S, Vt = np.linalg.svd(Rb @ Ra.T)
    k = setting.rank
    root = np.sqrt(S[:k])
    left, right = Qb @ (U[:, :k] * root), (root[:, None] * Vt[:k]) @ Qa.T
    return left.astype(np.float32), right.astype(np.float32)


def peft_svd(model, setting, name):
    model.add_weighted_adapter(
        setting.names, setting.weights, name, combination_type="svd", svd_rank=setting.rank, svd_full_matrices=False
    )


def clock(call, timer=time.perf_counter):
    start = timer()
    call()
    return timer() - start


def errors(torch, pairs, setting, results):
    """By route: the relative error; how far it is over the best approximation's; and the distance from that."""
    scaled = [w * SCALING * b.double() for (b, _), w in zip(pairs, setting.weights, strict=True)]
    target = sum(b @ a.double() for b, (_, a) in zip(scaled, pairs, strict=True))
    Qb, Rb = torch.linalg.qr(torch.cat(scaled, 1))
    Qa, Ra = torch.linalg.qr(torch.cat([a.double() for _, a in pairs]).T)
    U, S, Vt = torch.linalg.svd(Rb @ Ra.T)
    k = setting.rank
    best, least = (Qb @ (U[:, :k] * S[:k])) @ (Vt[:k] @ Qa.T), S[k:].norm()
    found = {}
    for name, factors in results.items():
        B, A = (torch.as_tensor(factor).double() for factor in factors)
        wrong = (target - B @ A).norm()
        found[name] = float(wrong / target.norm()), float(wrong / least) - 1, float((best - B @ A).norm() / best.norm())
    return found


def machine(threads):
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    cores = f"{os.cpu_count()} cores ({model}), {threads} threads"
    return f"{platform.machine()}, {cores}, load {load}, Python {platform.python_version()}"


def report(times, errors):
    mine = statistics.median(times["ours"])
    columns = "".join(f"{name:>15}" for name in ("median", "fastest", "slowest"))
    print(f"\n{'route':10}{columns}{'runs':>6}{'/ ours':>12}{'error':>14}{'over the best':>15}{'off the best':>14}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        figures = "".join(f"{value * 1e3:>12.2f} ms" for value in (median, min(seconds), max(seconds)))
        wrong, over, off = errors[name]
        print(f"{name:10}{figures}{len(seconds):>6}{median / mine:>12.2f}{wrong:>14.9f}{over:>15.1e}{off:>14.2e}")


if __name__ == "__main__":
    main()
