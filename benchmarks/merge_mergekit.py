"""The weighted sum of two r=16 adapters by mergekit, which merges models, and by ours: time, disk, and the difference.

    .venv/bin/python benchmarks/merge_mergekit.py PYTHON [--runs 3]

PYTHON is that of an environment with mergekit 0.1.5 and peft. Whole processes in turn, one thread, nothing cached; a
random Llama of 8 layers, 512 wide. mergekit adds each adapter to a full copy of the base on disk and writes a model.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MERGE = """
import sys
from pathlib import Path
from engine.merge import Source, merge
sources = [Source(Path(sys.argv[1]), 0.6), Source(Path(sys.argv[2]), 0.4)]
merge(sources, method="linear", out=Path(sys.argv[3]))
"""


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("python")
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given)


def run(folder, given):
    base, first, second = (folder / name for name in ("base", "first", "second"))
    write_parents(base, (first, second))
    config = folder / "merge.yaml"
    models = "".join(
        f"  - model: {base}+{one}\n    parameters: {{weight: {w}}}\n" for one, w in ((first, 0.6), (second, 0.4))
    )
    config.write_text(f"merge_method: task_arithmetic\nbase_model: {base}\nmodels:\n{models}dtype: float32\n")
    theirs, ours = folder / "theirs", folder / "ours"
    kit = [given.python, "-m", "mergekit.scripts.run_yaml", config, theirs, "--no-copy-tokenizer"]
    commands = {
        "mergekit": [*kit, "--no-write-model-card", "--lora-merge-cache", folder / "cache"],
        "ours": [sys.executable, "-c", MERGE, first, second, ours],
    }
    times = {name: [] for name in commands}
    for _ in range(given.runs):
        for made in (theirs, ours, folder / "cache"):
            shutil.rmtree(made, ignore_errors=True)
        for name, command in commands.items():
            times[name].append(clock(command))
    print(f"load {os.getloadavg()[0]:.1f}, {given.runs} runs; processor seconds median (min, max); wall median")
    for name, figures in times.items():
        busy, wall = zip(*figures, strict=True)
        print(
            f"{name:10}{statistics.median(busy):8.2f} ({min(busy):.2f}, {max(busy):.2f}){statistics.median(wall):8.2f}"
        )
    for made in (theirs, folder / "cache", ours):
        print(f"{made.name:10}{sum(one.stat().st_size for one in made.rglob('*') if one.is_file()) / 1e6:8.1f} MB")
    print(f"difference of the two weighted sums, relative: {difference(base, theirs, ours):.1e}")


def write_parents(base, adapters):
    import peft
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4000,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(base)
    settings = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    for folder in adapters:
        peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), settings).save_pretrained(folder)


def clock(command):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def difference(base, theirs, ours):
    from safetensors.torch import load_file

    factors = load_file(ours / "adapter_model.safetensors")
    start, end = (
        {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}
        for folder in (base, theirs)
    )
    wrong = whole = 0.0
    for name in (name for name in factors if "lora_A" in name):
        weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        delta = factors[name.replace("lora_A", "lora_B")].double() @ factors[name].double()
        wrong += float((end[weight].double() - start[weight].double() - delta).square().sum())
        whole += float(delta.square().sum())
    return (wrong / whole) ** 0.5


if __name__ == "__main__":
    main()
