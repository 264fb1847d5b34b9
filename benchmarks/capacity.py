"""Plan and impact over 10,000 stored adapters of a Llama-8B shape: 224 modules each, from documents alone.

    python benchmarks/capacity.py [--adapters 10000] [--runs 3] [--distinct]

One process on SQLite; every adapter has its own norms, one in fifty another rank, so that documents differ as pushes
make them; with --distinct no two configurations are equal, so that none is spared. Wall and processor time of whole
questions in turn. There is no other tool that answers these, so no second side: the bound is that of the issue for
checks, 60 s for 10,000 versions.
"""

import argparse
import hashlib
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert

from registry.api import Registry
from registry.models import Adapter, Base, BaseName, Document, Version
from registry.settings import Settings

PROJECTIONS = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
MODULES = {f"model.layers.{n}.{name}": shape for n in range(32) for name, shape in PROJECTIONS.items()}
FACTS = json.dumps(
    {
        "schema": 1,
        "config": {"size": 400, "duplicates": []},
        "weights": {"name": "adapter_model.safetensors", "size": 168_000_000},
        **{part: {} for part in ("keys", "extras", "configured", "incomplete", "others", "nonfinite")},
        **{part: [] for part in ("tensors", "unmatched", "zero", "unscanned")},
    }
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--distinct", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capacity-") as home:
        registry = Registry(Settings(home=Path(home)))
        registry.init()
        fill(registry, given.adapters, distinct=given.distinct)
        asked = {
            "plan --for vllm": lambda: registry.plan(for_engine="vllm:max_lora_rank=64", base="llama"),
            "plan --for sglang": lambda: registry.plan(for_engine="sglang", base="llama"),
            "impact --base llama --to wider": lambda: registry.impact(base="llama", to="wider"),
            "impact --for vllm@0.31.0 --to vllm@0.33.0": lambda: registry.impact(
                for_engine="vllm@0.31.0", to="vllm@0.33.0"
            ),
            "impact --base llama": lambda: registry.impact(base="llama"),
        }
        walls, cpus = ({name: [] for name in asked} for _ in range(2))
        for _ in range(given.runs):
            for name, ask in asked.items():
                wall, cpu = time.perf_counter(), time.process_time()
                ask()
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    print("| question | wall median s | min | max | cpu median s |\n|---|---|---|---|---|")
    for name in asked:
        wall = walls[name]
        low, high = min(wall), max(wall)
        print(
            f"| {name} | {statistics.median(wall):.1f} | {low:.1f} | {high:.1f} | {statistics.median(cpus[name]):.1f} |"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory {peak:.0f} MB")


def fill(registry, adapters, *, distinct):
    """Two bases and the adapters, by plain inserts."""

    def rows(session):
        session.execute(insert(Base), [base(1, 4096), base(2, 5120)])
        session.execute(
            insert(BaseName), [{"id": 1, "name": "llama", "base_id": 1}, {"id": 2, "name": "wider", "base_id": 2}]
        )
        for start in range(0, adapters, 500):
            page = range(start + 1, min(start + 500, adapters) + 1)
            session.execute(
                insert(Adapter), [{"id": n, "namespace": "bench", "name": f"a{n}", "last_number": 1} for n in page]
            )
            session.execute(insert(Version), [version(n) for n in page])
            session.execute(insert(Document), [row for n in page for row in documents(n, distinct=distinct)])

    registry._handle.database.write(rows)  # noqa: SLF001 (rows that no verb makes)


def base(number, width):
    parameters = {
        f"layers.{n}.{name}.weight": [width if side == 4096 else side for side in shape]
        for n in range(32)
        for name, shape in PROJECTIONS.items()
    }
    parameters |= {"embed_tokens.weight": [128256, width], "lm_head.weight": [128256, width]}
    return {
        "id": number,
        "layout": digest("layout", number),
        "fingerprint": digest("base", number),
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "dtype": "bfloat16",
        "tensors": len(parameters),
        "parameter_count": 8_000_000_000,
        "parameters": json.dumps(parameters),
        "config": "{}",
    }


def version(number):
    return {
        "id": number,
        "adapter_id": number,
        "number": 1,
        "digest": digest("version", number),
        "newest": True,
        "peft_type": "LORA",
        "rank": rank_of(number),
        "modules": len(MODULES),
        "dtype": "F32",
        "size": 168_000_000,
        "base_id": 1,
        "base_name": "llama",
    }


def documents(number, *, distinct):
    rank = rank_of(number)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "llama",
        "r": rank,
        "lora_alpha": number if distinct else 2 * rank,
        "target_modules": sorted(name.rpartition(".")[2] for name in PROJECTIONS),
    }
    modules = [
        {
            "name": name,
            "kind": "linear",
            "rank": rank,
            "alpha": 2 * rank,
            "scaling": 2.0,
            "a_shape": [rank, inputs],
            "b_shape": [outputs, rank],
            "dtype": "F32",
            "norm": (number * 31 + place) / 97,
            "spectrum": None,
        }
        for place, (name, (outputs, inputs)) in enumerate(MODULES.items())
    ]
    bodies = {"config": json.dumps(config), "modules": json.dumps(modules, separators=(",", ":")), "facts": FACTS}
    return [{"version_id": number, "kind": kind, "body": body} for kind, body in bodies.items()]


def rank_of(number):
    return 16 if number % 50 else 8 + number // 50 % 64


def digest(*seed):
    return "sha256:" + hashlib.sha256(repr(seed).encode()).hexdigest()


if __name__ == "__main__":
    main()
