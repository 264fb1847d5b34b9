"""A merged checkpoint, streamed: ours beside cp, a plain torch pass, PEFT's merge_and_unload and mergekit.

    .venv/bin/python benchmarks/materialize.py [--sizes 1,4,7] [--places .,/dev/shm] [--runs 3] [--peft 4]
        [--mergekit PYTHON] [--svg FILE] [--quantize nf4,int8]

A random bfloat16 Llama (4096 wide) of each size in GB with a rank-16 adapter on all linear layers, in the page cache.
Each side is a process of its own, in turn; medians with the smallest and largest. Ours, cp and the plain pass are timed
after their imports; PEFT and mergekit beside our whole process. `plain` is float, add, round, sha256 of every tensor in
torch with all cores, writing nothing; `cp` is `cp --reflink=never` and an fsync of every file. Ours ends with every
file and folder fsynced. Promised: ours at most 1.3 of the larger of the two; resident memory at most 1 GB at any size,
time linear; at 4 GB at least 3 times as fast as PEFT and at most a quarter of its memory.

With --quantize nothing of that runs, but for each form ours from base and adapter beside transformers, which loads the
merged checkpoint (made beforehand, untimed) with a BitsAndBytesConfig and saves it; both whole processes:

    .venv/bin/python benchmarks/materialize.py --sizes 1 --places . --quantize nf4,int8
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from materialize_data import make

ROOT = Path(__file__).resolve().parents[1]
MERGEKIT = "models:\n- model: {base}+{adapter}\nmerge_method: passthrough\ndtype: bfloat16\n"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sizes", default="1,4,7")
    options.add_argument("--places", default=".,/dev/shm")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--peft", type=float, default=4, help="the size at which PEFT and mergekit run; 0 for none")
    options.add_argument("--mergekit", help="python of an environment with mergekit and peft")
    options.add_argument("--svg", type=Path)
    options.add_argument("--quantize", help="forms in which ours runs beside transformers, instead of all else")
    options.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.side:
        side(given.side[0], Path(given.side[1]))
        return
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {given.runs} runs")
    points = {}
    for place in given.places.split(","):
        for size in map(float, given.sizes.split(",")):
            with tempfile.TemporaryDirectory(dir=place) as folder:
                work = measure_quantised if given.quantize else measure
                points[place, size] = work(Path(folder), size, given)
    if given.svg and not given.quantize:
        given.svg.write_text(plot(points), encoding="utf-8")


def measure(folder, size, given):
    """All sides of one size in one place; our (seconds, bytes resident)."""
    make_apart(folder, size)
    names = ["ours", "cp", "plain"]
    if size == given.peft:
        names += ["whole", "peft", *(["mergekit"] if given.mergekit else [])]
    told = in_turn(names, folder, size, given)
    middle = {name: statistics.median(one["wall"] for one in runs) for name, runs in told.items()}
    print(f"ours / max(cp, plain) = {middle['ours'] / max(middle['cp'], middle['plain']):.2f}")
    if "peft" in told:
        rss = {name: statistics.median(one["rss"] for one in told[name]) for name in ("whole", "peft")}
        print(
            f"peft / ours: {middle['peft'] / middle['whole']:.1f} x the time, {rss['peft'] / rss['whole']:.1f} x memory"
        )
    return middle["ours"], max(one["rss"] for one in told["ours"])


def measure_quantised(folder, size, given):
    """Both sides of every form."""
    make_apart(folder, size)
    measured("ours", folder, given)
    (folder / "out").rename(folder / "merged")
    forms = given.quantize.split(",")
    told = in_turn([f"{side}:{form}" for form in forms for side in ("quantised", "transformers")], folder, size, given)
    for form in forms:
        pairs = [told[f"{side}:{form}"] for side in ("transformers", "quantised")]
        time, rss = ([statistics.median(one[key] for one in runs) for runs in pairs] for key in ("wall", "rss"))
        print(f"{form}: transformers / ours: {time[0] / time[1]:.1f} x the time, {rss[0] / rss[1]:.1f} x memory")


def in_turn(names, folder, size, given):
    """What each side took in each run, told as a table."""
    told = {name: [] for name in names}
    for run in range(given.runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            told[name].append(measured(name, folder, given))
            shutil.rmtree(folder / "out", ignore_errors=True)
            os.sync()
    print(f"\n{size:g} GB in {folder.parent}:\n| side | s | processor s | MB resident |\n|---|---|---|---|")
    for name, runs in told.items():
        columns = [[one[key] for one in runs] for key in ("wall", "cpu", "rss")]
        print(f"| {name} | " + " | ".join(map(spread, columns)) + " |", flush=True)
    return told


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def make_apart(folder, size):
    """In a child, so that no side inherits its memory."""
    if (child := os.fork()) == 0:
        make(folder, size)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("the checkpoint could not be made")


def measured(name, folder, given):
    """Wall and processor seconds and resident megabytes of one side in its own process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--side", name, str(folder)]
    if name == "mergekit":
        recipe = folder / "recipe.yml"
        recipe.write_text(MERGEKIT.format(base=folder / "base", adapter=folder / "adapter"))
        tool = Path(given.mergekit).parent / "mergekit-yaml"
        command = [tool, recipe, folder / "out", "--no-copy-tokenizer", "--lora-merge-cache", folder / "out-cache"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} failed with {process.returncode}")
    shutil.rmtree(folder / "out-cache", ignore_errors=True)
    whole = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}
    return json.loads(output) if name in ("ours", "cp", "plain") else whole


def side(name, folder):
    """One side, in this process."""
    name, _, form = name.partition(":")
    sides = {"ours": ours, "whole": ours, "cp": copy, "plain": plain, "peft": peft}
    formed = {"quantised": quantised, "transformers": transformed}
    work = formed[name](folder, form) if form else sides[name](folder)
    start, before = time.perf_counter(), processor()
    work()
    told = {"wall": time.perf_counter() - start, "cpu": processor() - before}
    print(json.dumps(told | {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def processor():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def ours(folder):
    from engine.materialize import Request, Source, materialize

    request = Request(base=folder / "base", sources=(Source(folder / "adapter"),))
    return partial(materialize, request, folder / "out")


def quantised(folder, form):
    from engine.materialize import Request, Source, materialize

    request = Request(base=folder / "base", sources=(Source(folder / "adapter"),), quantize=form)
    return partial(materialize, request, folder / "out")


def transformed(folder, form):
    def work():
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        four = {"load_in_4bit": True, "bnb_4bit_quant_type": form, "bnb_4bit_use_double_quant": True}
        config = BitsAndBytesConfig(**({"load_in_8bit": True} if form == "int8" else four))
        model = AutoModelForCausalLM.from_pretrained(
            folder / "merged", dtype=torch.bfloat16, quantization_config=config, device_map="cpu"
        )
        model.save_pretrained(folder / "out")

    return work


def copy(folder):
    def work():
        subprocess.run(["cp", "-r", "--reflink=never", folder / "base", folder / "out"], check=True)
        for file in [*(folder / "out").iterdir(), folder / "out", folder]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return work


def plain(folder):
    import hashlib

    import torch
    from safetensors import safe_open

    def work():
        with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as adapter:
            names = set(adapter.keys())
            for file in sorted((folder / "base").glob("*.safetensors")):
                with safe_open(file, "pt") as base:
                    for name in base.keys():  # noqa: SIM118 (it is no dict)
                        W = base.get_tensor(name)
                        stem = f"base_model.model.{name.removesuffix('.weight')}"
                        if f"{stem}.lora_A.weight" in names:
                            A, B = (adapter.get_tensor(f"{stem}.lora_{one}.weight").float() for one in "AB")
                            W = (W.float() + 2.0 * (B @ A)).bfloat16()
                        hashlib.sha256(W.view(torch.uint8).numpy().data.cast("B")).hexdigest()

    return work


def peft(folder):
    def work():
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(folder / "out")

    return work


def plot(points, width=640, height=420, margin=60):
    """Seconds (lines) and MB resident (dashed) by size, one colour a place; both axes from zero."""
    most = max(size for _, size in points)
    scales = [max(point[index] for point in points.values()) for index in (0, 1)]

    def at(size, share):
        return (
            f"{margin + (width - 2 * margin) * size / most:.1f},{height - margin - (height - 2 * margin) * share:.1f}"
        )

    title = (
        f"Seconds (line, to {scales[0]:.1f}), MB resident (dashed, to {scales[1]:.0f}) by GB of the base, to {most:g}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<text x="{margin}" y="30">{title}</text>',
    ]
    places = sorted({place for place, _ in points})
    for number, place in enumerate(places):
        colour = f"hsl({360 * number // len(places)},70%,40%)"
        for index, dashes in enumerate(("", ' stroke-dasharray="5"')):
            run = [
                at(size, one[index] / scales[index]) for (held, size), one in sorted(points.items()) if held == place
            ]
            lines.append(f'<polyline points="{" ".join(run)}" fill="none" stroke="{colour}"{dashes}/>')
        lines.append(f'<text x="{margin + 10}" y="{60 + 16 * number}" font-size="12" fill="{colour}">{place}</text>')
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    main()
