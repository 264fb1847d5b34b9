"""Moving 1 GB in and out, against hashlib + cp + fsync of the same bytes, in one run.

    python benchmarks/transfer.py [--runs 5] [--megabytes 1024] [--folder DIR]

Each round runs every row once on the same file, one after the other, so that a noisy moment hits both sides. The page
cache is warm on both sides; files written are fsynced and removed before the next row.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from registry.files.manifest import manifest_bytes
from registry.pulls.pulled import ensure_pulled
from registry.results import FileEntry
from registry.store.folder import FolderStore
from registry.values.digests import digest_of

FLOOR = "hashlib + cp + fsync"


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="transfer-", dir=options.folder) as place:
        adapter = make_adapter(Path(place) / "adapter", options.megabytes)
        rows = {FLOOR: floor, "stage + place": push_files, "checkout": pull_files, **whole_verbs()}
        seconds = {name: [] for name in rows}
        for _ in range(options.runs):
            for name, row in rows.items():
                os.sync()
                seconds[name].append(row(adapter, Path(place)))
    report(seconds, options.megabytes)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where to write; the default temporary folder otherwise")
    return parser.parse_args()


def report(seconds, megabytes):
    whole = statistics.median(seconds[FLOOR])
    print(f"{megabytes} MB, {len(seconds[FLOOR])} runs, {os.cpu_count()} cores")
    print(f"{'':24}{'median s':>10}{'min s':>8}{'max s':>8}{'of the floor':>14}")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:24}{middle:10.2f}{min(times):8.2f}{max(times):8.2f}{whole / middle:14.2f}")


def floor(adapter, place):
    """What anyone must do: hash the bytes, copy them, make the copy durable."""
    source, target = adapter / "adapter_model.safetensors", place / "copy"
    began = time.perf_counter()
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    subprocess.run(["cp", "--reflink=never", source, target], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    spent = time.perf_counter() - began
    target.unlink()
    return spent


def push_files(adapter, place):
    store = FolderStore(place / "blobs", place / "staging")
    began = time.perf_counter()
    with store.staging() as staging:
        store.place(*[staging.add(path, name=path.name) for path in adapter.iterdir()])
    spent = time.perf_counter() - began
    shutil.rmtree(store.root)
    return spent


def pull_files(adapter, place):
    store = FolderStore(place / "kept" / "blobs", place / "kept" / "staging")
    files = stored(store, adapter)
    os.sync()
    began = time.perf_counter()
    folder = ensure_pulled(store, digest_of(manifest_bytes(files)), files, place / "kept" / "pulled")
    spent = time.perf_counter() - began
    shutil.rmtree(folder)
    return spent


def stored(store, adapter):
    with store.staging() as staging:
        staged = {path.name: staging.add(path, name=path.name) for path in adapter.iterdir()}
        store.place(*staged.values())
    return [FileEntry(name, file.digest, file.size) for name, file in staged.items()]


def whole_verbs():
    """Registry.push and Registry.pull: checks, rows and all."""
    try:
        from registry.api import Registry
    except ImportError:
        return {}

    def push(adapter, place):
        with tempfile.TemporaryDirectory(dir=place) as home:
            registry = Registry.open(home=home)
            began = time.perf_counter()
            registry.push(adapter, "bench/large")
            return time.perf_counter() - began

    def pull(adapter, place):
        with tempfile.TemporaryDirectory(dir=place) as home:
            registry = Registry.open(home=home)
            registry.push(adapter, "bench/large")
            os.sync()
            began = time.perf_counter()
            registry.pull("bench/large")
            return time.perf_counter() - began

    return {"Registry.push": push, "Registry.pull": pull}


def make_adapter(folder, megabytes):
    """An r=64 LoRA of 4096 x 4096 bf16 projections, as many as fit, with values a training run could have left."""
    modules = max(1, (megabytes << 20) // (2 * 64 * 4096 * 2))
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 64,
        "lora_alpha": 64,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for module in range(modules):
        for part, shape in (("A", [64, 4096]), ("B", [4096, 64])):
            name = f"base_model.model.model.layers.{module}.self_attn.q_proj.lora_{part}.weight"
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * 64 * 4096]}
            end += 2 * 64 * 4096
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _ in range(2 * modules):
            file.write(bf16_noise())
    return folder


def bf16_noise():
    """One tensor of finite numbers near 0.01: the high half of a float32, any mantissa, a fixed exponent."""
    raw = bytearray(os.urandom(2 * 64 * 4096))
    raw[1::2] = bytes(0x3C | (byte & 0x80) for byte in raw[1::2])
    return raw


if __name__ == "__main__":
    main()
