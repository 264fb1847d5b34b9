"""Checks for four engines: folders by a whole process, versions from stored facts, and every version of a catalog.

    python benchmarks/check.py [--versions 10000] [--runs 7] [--every-runs 1]
        [--configs equal reordered distinct] [--home DIR]

Every version has norms of its own. Catalogs of three kinds are checked: all configs equal; equal but for the order of
target_modules, which PEFT writes as a set has it; no two alike in alpha and rank, and so in their modules, which is the
worst case. The rules' digest is changed before each run, so that every answer is stale.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sqlalchemy import delete, func, insert, select

from registry.api import Registry
from registry.handle import Handle
from registry.models import Adapter, CheckResult, Document, File, Version

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
    # Installed packages come with their bytecode; the first run writes it here.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["ADAPTERS_HOME"] = str(home)
    walls, cpus = [], []
    for _ in range(runs + 1):
        before, start = children(), time.perf_counter()
        subprocess.run(line, check=False, stdout=subprocess.DEVNULL, env=environment)
        walls.append(time.perf_counter() - start)
        cpus.append(children() - before)
    spread("by path, a new process, wall s", walls[1:], "< 0.5")
    spread("by path, a new process, cpu s", cpus[1:], "")


def children() -> float:
    """Seconds of processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def equal(_number: int, _config: dict, _modules: list) -> None:
    """As it was pushed."""


def reordered(number: int, config: dict, _modules: list) -> None:
    """The targets in another order."""
    config["target_modules"] = random.Random(number).sample(config["target_modules"], len(config["target_modules"]))


def distinct(number: int, config: dict, modules: list) -> None:
    """An alpha and a rank as no other has them."""
    config["lora_alpha"], config["r"] = number, 1 + number % 64
    for one in modules:
        rank = config["r"]
        one |= {"alpha": number, "rank": rank, "scaling": number / rank}
        one |= {"a_shape": [rank, one["a_shape"][1]], "b_shape": [one["b_shape"][0], rank]}


CHANGES = {change.__name__: change for change in (equal, reordered, distinct)}


def documents_of(number: int, pushed: dict[str, str], change) -> dict[str, str]:
    """A version's documents: those of the one that was pushed, changed, with norms of its own."""
    config, modules = json.loads(pushed["config"]), json.loads(pushed["modules"])
    change(number, config, modules)
    for one in modules:
        one["norm"] *= 1 + number / 1e5
    bodies = {"config": config, "modules": modules}
    return pushed | {kind: json.dumps(body, separators=(",", ":")) for kind, body in bodies.items()}


def copies(registry: Registry, count: int, change) -> None:
    """`count` versions, each an adapter of its own, whose rows are those of the one that was pushed, changed."""

    def fill(session) -> None:
        one = session.scalars(select(Version)).one()
        documents = dict(session.execute(select(Document.kind, Document.body)).all())
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
            own = documents_of(n, documents, change)
            bodies = [{"version_id": start + n, "kind": kind, "body": body} for kind, body in own.items()]
            session.execute(insert(Document), bodies)
            session.execute(insert(File), [{**row._asdict(), "version_id": start + n} for row in files])

    Handle(registry.settings).database.write(fill)


def warm(registry: Registry, runs: int) -> None:
    """One version from what is stored of it."""
    walls = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        registry.check("team/a00000", for_engines=ENGINES)
        walls.append(time.perf_counter() - start)
    spread("from stored facts, in process, s", walls[1:], "< 0.05")


def every(registry: Registry, kind: str, runs: int) -> None:
    """All versions, each time as if nothing had been answered under today's rules, then with everything answered."""
    walls, cpus = [], []
    for _ in range(runs):
        Handle(registry.settings).database.write(lambda session: session.execute(delete(CheckResult)))
        start, used = time.perf_counter(), children() + time.process_time()
        registry.check_all(for_engines=ENGINES, processes=os.cpu_count() or 1)
        walls.append(time.perf_counter() - start)
        cpus.append(children() + time.process_time() - used)
    spread(f"every version, configs {kind}, wall s", walls, "< 60")
    spread(f"every version, configs {kind}, cpu s", cpus, "")
    start = time.perf_counter()
    registry.check_all(for_engines=ENGINES, processes=os.cpu_count() or 1)
    spread("the same again, nothing stale, wall s", [time.perf_counter() - start], "")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--versions", type=int, default=10_000)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--every-runs", type=int, default=1)
    options.add_argument("--configs", nargs="+", default=list(CHANGES), choices=CHANGES)
    options.add_argument("--home", type=Path)
    given = options.parse_args()
    place = given.home or Path(tempfile.mkdtemp(prefix="adapters-check-"))
    try:
        adapter, base = make_adapter(place / "adapter"), make_base(place / "base")
        size = (adapter / "adapter_model.safetensors").stat().st_size
        print(f"{size / 1e6:.0f} MB, {given.versions} versions\n")
        print("| | median | min | max | runs | promised |\n|---|---|---|---|---|---|")
        cold(adapter, base, given.runs, place / "none")
        for change in map(CHANGES.__getitem__, given.configs):
            registry = Registry.open(home=place / change.__name__)
            registry.add_base(base, names=["meta/llama-8b"])
            registry.push(adapter, "team/a00000")
            warm(registry, given.runs)
            copies(registry, given.versions, change)
            every(registry, change.__name__, given.every_runs)
        peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print("\npeak memory of one process: {:.0f} MB here, {:.0f} MB beside".format(*peaks))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
