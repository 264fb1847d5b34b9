"""Checks for four engines: folders by a whole process, versions from stored facts, and every version of a catalog.

python benchmarks/check.py [--versions 10000] [--runs 7] [--home DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sqlalchemy import func, insert, select

from registry.api import Registry
from registry.handle import Handle
from registry.models import Adapter, Document, File, Version

ENGINES = ("vllm", "sglang", "diffusers", "peft")
LAYERS, HIDDEN, RANK = 32, 4096, 16
SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 1024),
    "self_attn.v_proj": (4096, 1024),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (4096, 14336),
    "mlp.up_proj": (4096, 14336),
    "mlp.down_proj": (14336, 4096),
}


def make_adapter(folder: Path) -> Path:
    """Rank 16 over every linear layer of an 8B Llama in fp32: 448 tensors, 168 MB."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0).standard_normal
    tensors = {}
    for layer in range(LAYERS):
        for name, (fan_in, fan_out) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{stem}.lora_A.weight"] = draw((RANK, fan_in), dtype=np.float32)
            tensors[f"{stem}.lora_B.weight"] = draw((fan_out, RANK), dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "meta/llama-8b",
        "revision": "0" * 40,
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": 32,
        "target_modules": sorted(name.partition(".")[2] for name in SHAPES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_base(folder: Path) -> Path:
    """The base's parameters: the shapes of an 8B Llama, as a file full of holes."""
    folder.mkdir(parents=True)
    shapes = {"model.embed_tokens.weight": (128256, HIDDEN), "lm_head.weight": (128256, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": size[::-1] for name, size in SHAPES.items()}
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder


def spread(name: str, seconds: list[float], promised: str) -> None:
    middle = statistics.median(seconds)
    print(
        f"| {name} | {middle:.3f} | {min(seconds):.3f} | {max(seconds):.3f} | {len(seconds)} | {promised} |", flush=True
    )


def cold(adapter: Path, base: Path, runs: int, home: Path) -> None:
    """Whole processes; the adapter's bytes are in the page cache."""
    program = "import sys; from registry.cli import main; sys.argv[0] = 'adapters'; main()"
    engines = [f"--for={name}" for name in ENGINES]
    line = [sys.executable, "-c", program, "check", str(adapter), "--base", str(base), *engines, "--format", "quiet"]
    walls, cpus = [], []
    for _ in range(runs + 1):
        before, start = os.times(), time.perf_counter()
        subprocess.run(line, check=False, stdout=subprocess.DEVNULL, env={**os.environ, "ADAPTERS_HOME": str(home)})
        after = os.times()
        walls.append(time.perf_counter() - start)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    spread("by path, a new process, wall s", walls[1:], "< 0.5")
    spread("by path, a new process, cpu s", cpus[1:], "")


def copies(registry: Registry, count: int) -> None:
    """`count` versions, each an adapter of its own, whose rows are those of the one that was pushed."""

    def fill(session) -> None:
        one = session.scalars(select(Version)).one()
        documents = session.execute(select(Document.kind, Document.body)).all()
        files = session.execute(select(File.path, File.role, File.blob_digest, File.sha256, File.size)).all()
        start = session.scalar(select(func.max(Version.id))) or 0
        adapters = [
            {"id": start + n, "namespace": "team", "name": f"a{n:05}", "last_number": 1} for n in range(1, count)
        ]
        session.execute(insert(Adapter), adapters)
        kept = {
            c.key: getattr(one, c.key) for c in Version.__table__.columns if c.key not in ("id", "adapter_id", "digest")
        }
        for n in range(1, count):
            digest = f"sha256:{n:064x}"
            row = {**kept, "id": start + n, "adapter_id": start + n, "digest": digest}
            session.execute(insert(Version), [row])
            bodies = [{"version_id": start + n, "kind": kind, "body": body} for kind, body in documents]
            session.execute(insert(Document), bodies)
            session.execute(insert(File), [{**row._asdict(), "version_id": start + n} for row in files])

    Handle(registry.settings).database.write(fill)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--versions", type=int, default=10_000)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--home", type=Path)
    given = options.parse_args()
    place = given.home or Path(tempfile.mkdtemp(prefix="adapters-check-"))
    try:
        adapter, base = make_adapter(place / "adapter"), make_base(place / "base")
        size = (adapter / "adapter_model.safetensors").stat().st_size
        print(f"{size / 1e6:.0f} MB, {given.versions} versions\n")
        print("| | median | min | max | runs | promised |\n|---|---|---|---|---|---|")
        cold(adapter, base, given.runs, place / "none")
        registry = Registry.open(home=place / "home")
        registry.add_base(base, names=["meta/llama-8b"])
        registry.push(adapter, "team/a00000")
        walls = []
        for _ in range(given.runs + 1):
            start = time.perf_counter()
            registry.check("team/a00000", for_engines=ENGINES)
            walls.append(time.perf_counter() - start)
        spread("from stored facts, in process, s", walls[1:], "< 0.05")
        copies(registry, given.versions)
        for name in ("every version, s", "every version again, s"):
            start = time.perf_counter()
            registry.check_all(for_engines=ENGINES, processes=os.cpu_count() or 1)
            spread(name, [time.perf_counter() - start], "< 60" if "again" not in name else "")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
