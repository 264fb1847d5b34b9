"""ties and dare_ties to rank k: ours and peft's dense ties_svd and dare_ties_svd.

    .venv/bin/python benchmarks/merge_elements.py [--threads 1] [--shape 4096x4096] [--parents 2] [--rank 16]

Both see the same tensors in memory, the same weights, density and number of threads, and give rank-k factors in
float32; ours trims over the one matrix as peft does (--trim tensor). The definitions differ in whose sign counts, not
in the work. The error is that of our factors over the best of that rank, from the eigenvalues of the float64 Gram
matrix of what was cut. Memory is the growth of a process of its own that does only our merge, in float32 matrices.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.merge_svd import clock, machine

ALPHA_PER_RANK, WEIGHTS, DENSITY = 2.0, (0.6, 0.4, 0.5, 0.3), {"ties": 0.2, "dare_ties": 0.5}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--shape", default="4096x4096")
    options.add_argument("--parents", type=int, default=2)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--peft-runs", type=int, default=1)
    options.add_argument("--methods", nargs="*", default=list(DENSITY))
    options.add_argument("--memory", choices=list(DENSITY))
    given = options.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    rows, columns = map(int, given.shape.split("x"))
    pairs = factors(torch, rows, columns, given)
    if given.memory:
        print(growth(given, pairs))
        return
    import peft

    print(machine(given.threads), f"torch {torch.__version__}, peft {peft.__version__}", sep="\n")
    print(f"{rows} x {columns}, {given.parents} parents of rank {given.rank}, to rank {given.rank}\n")
    figures = f"{'ours':>9}{'min':>9}{'max':>9}{'peft':>10}{'/ ours':>8}"
    print(f"{'method':10}{figures}{'error/best':>12}{'bound':>8}{'dense':>7}")
    for method in given.methods:
        report(torch, given, method, pairs)


def factors(torch, rows, columns, given):
    torch.manual_seed(0)
    shapes = [((rows, given.rank), (given.rank, columns))] * given.parents
    return [(torch.randn(b) / given.rank**0.5, torch.randn(a) / columns**0.5) for b, a in shapes]


def ours(given, method, pairs):
    """A function that merges, as a caller would: from the factors each time."""
    from engine.merge import METHODS, Options, Part, Parts, Site
    from engine.merge.given.options import complete

    row = METHODS[method]
    options = Options(density=DENSITY[method], trim="tensor" if "trim" in row.defaults else None)
    site = Site(
        weights=WEIGHTS[: len(pairs)],
        rank=given.rank,
        module="layer",
        keys=[f"sha256:{place}" for place in range(len(pairs))],
        options=complete(options, row.defaults, method=method),
    )

    def merge():
        parts = Parts([Part(B, A, ALPHA_PER_RANK) for B, A in pairs])
        target = row.combine(parts, site)
        return target, [factor.float() for factor in target.factors(given.rank)]

    return merge


def peft_layer(torch, given, pairs):
    import peft

    rows, columns = pairs[0][0].shape[0], pairs[0][1].shape[1]
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(columns, rows, bias=False))
    config = peft.LoraConfig(r=given.rank, lora_alpha=ALPHA_PER_RANK * given.rank, target_modules=["layer"])
    names = [f"p{place}" for place in range(len(pairs))]
    wrapped = peft.get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    layer = wrapped.base_model.model.layer
    with torch.no_grad():
        for name, (B, A) in zip(names, pairs, strict=True):
            layer.lora_B[name].weight.copy_(B)
            layer.lora_A[name].weight.copy_(A)
    return wrapped, names


def peft_merge(wrapped, names, given, method, place):
    wrapped.add_weighted_adapter(
        names,
        list(WEIGHTS[: len(names)]),
        f"{method}{place}",
        combination_type=f"{method}_svd",
        svd_rank=given.rank,
        svd_full_matrices=False,
        density=DENSITY[method],
    )


def report(torch, given, method, pairs):
    merge = ours(given, method, pairs)
    merge()
    times = [clock(merge) for _ in range(given.runs)]
    ratio, bound = quality(torch, given, merge)
    wrapped, names = peft_layer(torch, given, pairs)
    theirs = [clock(lambda n=n: peft_merge(wrapped, names, given, method, n)) for n in range(given.peft_runs)]
    median, slow = statistics.median(times), statistics.median(theirs or [float("nan")])
    figures = f"{median:>8.2f}s{min(times):>8.2f}s{max(times):>8.2f}s{slow:>9.1f}s{slow / median:>8.1f}"
    print(f"{method:10}{figures}{ratio:>12.6f}{bound:>8.4f}{memory(given, method):>7.2f}", flush=True)


def quality(torch, given, merge):
    """Our error over the best of that rank, and the bound that was reported for it."""
    from engine.merge.methods import elements

    kept, sketch = [], elements.sketch
    elements.sketch = lambda matrix, *rest, **more: (kept.append(matrix.clone()), sketch(matrix, *rest, **more))[1]
    target, (B, A) = merge()
    elements.sketch = sketch
    matrix = kept[0].double() if kept[0].shape[0] >= kept[0].shape[1] else kept[0].double().T
    error = float((kept[0].double() - B.double() @ A.double()).square().sum())
    levels = torch.linalg.eigvalsh(matrix.T @ matrix)
    return (error / float(levels[: -given.rank].sum())) ** 0.5, target.bound


def memory(given, method):
    command = [sys.executable, __file__, "--memory", method, "--threads", str(given.threads), "--shape", given.shape]
    command += ["--parents", str(given.parents), "--rank", str(given.rank)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def growth(given, pairs):
    """Peak memory of one merge above what the process held before, in dense matrices."""
    merge = ours(given, given.memory, pairs)
    small = [(B[:64], A[:, :64]) for B, A in pairs]
    ours(given, given.memory, small)()
    before = status("VmRSS")
    # From here on the peak is counted anew; getrusage's would be that of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    merge()
    rows, columns = pairs[0][0].shape[0], pairs[0][1].shape[1]
    return (status("VmHWM") - before) / (4 * rows * columns)


def status(name):
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    main()
