"""svd merge of Llama-3-8B-shaped adapters, two unless said, file to file: 32 layers x 7 targets, r=16, bf16.

    .venv/bin/python benchmarks/merge_llama.py [--parents 8] [--folder DIR] [--runs 5] [--threads 2]

Printed beside it: reading the parents' bytes and writing the result's. Both in process, after the imports, with files
in the page cache; runs alternate. Peak memory is of the whole process. `--twice` merges one parent with itself, which
no Cholesky factor takes: the slower route for every module.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.merge_svd import clock, machine

WIDTH, NARROW, INNER, LAYERS, RANK = 4096, 1024, 14336, 32, 16
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (NARROW, WIDTH),
    "self_attn.v_proj": (NARROW, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, help="where the files are made; default a temporary folder")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--parents", type=int, default=2)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--twice", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        run(Path(folder), given)


def run(folder, given):
    import torch

    from engine.merge import Source, merge

    torch.set_num_threads(given.threads)
    print(machine(given.threads), f"torch {torch.__version__}", sep="\n")
    names = [str(seed) for seed in range(1, given.parents + 1)]
    for name in names:
        write_parent(torch, folder / name, int(name))
    sources = [Source(folder / name, 1 / len(names)) for name in (["1", "1"] if given.twice else names)]
    out, copy = folder / "out", folder / "copy"
    times = {"merge": [], "read and write": []}
    processor = 0.0
    for _ in range(given.runs):
        shutil.rmtree(out, ignore_errors=True)
        start, busy = time.perf_counter(), time.process_time()
        report = merge(sources, method="svd", out=out)
        times["merge"].append(time.perf_counter() - start)
        processor += time.process_time() - busy
        times["read and write"].append(clock(lambda: read_and_write(sources, out, copy)))
    print(f"{report.modules} modules, rank {report.rank}, {report.dtype}, energy kept {report.energy_kept:.4f}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):>8.3f} fastest{max(seconds):>8.3f} slowest, {len(seconds)} runs"
        print(f"{name:16}{median:>8.3f} s median{spread}")
    print(f"processor time of a merge {processor / given.runs:.3f} s, all threads together")
    print(f"ratio of medians {statistics.median(times['merge']) / statistics.median(times['read and write']):.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def write_parent(torch, folder, seed):
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module, (outputs, inputs) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            A = torch.randn(RANK, inputs, generator=generator) / inputs**0.5
            B = torch.randn(outputs, RANK, generator=generator) / 100
            tensors |= {f"{prefix}.lora_A.weight": A.bfloat16(), f"{prefix}.lora_B.weight": B.bfloat16()}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = [module.split(".")[1] for module in SHAPES]
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(document))


def read_and_write(sources, out, copy):
    """The same bytes through plain reads and one plain write of the result's."""
    for source in sources:
        data = (source.path / "adapter_model.safetensors").read_bytes()
    size = (out / "adapter_model.safetensors").stat().st_size
    copy.write_bytes(data[:size])


if __name__ == "__main__":
    main()
