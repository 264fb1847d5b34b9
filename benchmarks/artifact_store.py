"""Ten merges of one base kept in the store: bytes stored beside ten whole checkpoints, and what each one more costs.

    .venv/bin/python benchmarks/artifact_store.py [--merges 10] [--layers 12]

A random bfloat16 Llama (512 wide) in a home of its own; each adapter changes q_proj and v_proj of every layer.
Promised: one base and the tensors that change, whose bytes are counted from the base's shapes.
"""

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

import materialize_data as data

from registry import Registry

TARGETS = ("self_attn.q_proj", "self_attn.v_proj")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--merges", type=int, default=10)
    options.add_argument("--layers", type=int, default=12)
    given = options.parse_args()
    data.HIDDEN, data.INNER, data.VOCABULARY = 512, 1376, 8192
    every = {name: tuple(512 if side == 4096 else 1376 for side in shape) for name, shape in data.LINEARS.items()}
    with tempfile.TemporaryDirectory() as place:
        run(Path(place), every, given)


def run(folder, every, given):
    import torch

    data.LINEARS = every
    size = data.write_base(torch, folder / "base", given.layers)
    data.LINEARS = {name: every[name] for name in TARGETS}
    changed = given.layers * sum(2 * out * inner for out, inner in data.LINEARS.values())
    print(f"base {size / 1e6:.1f} MB, changed by each merge {changed / 1e6:.1f} MB\n| merges | MB stored | MB added |")
    print("|---|---|---|")
    with closing(Registry.open(home=folder / "home")) as registry:
        registry.add_base(folder / "base", names=["base"])
        before = 0
        for number in range(given.merges):
            torch.manual_seed(number)
            data.write_adapter(torch, folder / f"adapter-{number}", given.layers)
            to = folder / f"out-{number}"
            registry.materialize([folder / f"adapter-{number}"], base="base", kind="merged", to=to, store=True)
            stored = sum(file.stat().st_size for file in (folder / "home" / "blobs").rglob("*") if file.is_file())
            print(f"| {number + 1} | {stored / 1e6:.1f} | {(stored - before) / 1e6:.1f} |", flush=True)
            before = stored
    whole, least = given.merges * size, size + (given.merges - 1) * changed
    print(f"{given.merges} whole checkpoints: {whole / 1e6:.1f} MB; one and what changes in the others:", end=" ")
    print(f"{least / 1e6:.1f} MB; stored / that = {stored / least:.4f}")


if __name__ == "__main__":
    main()
