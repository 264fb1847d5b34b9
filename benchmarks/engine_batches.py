"""What a batch of several adapters costs over the base alone: ours beside PEFT's `adapter_names`, on one model.

    .venv/bin/python benchmarks/engine_batches.py [--runs 21] [--phases "decode b8,decode b32"] [--spreads distinct]

A random Llama (hidden 512, 8 layers, vocabulary 32,000, float32), r=16 on its seven linear modules, one thread. Each
round calls the base, PEFT and ours in a changing order; the cost of a side is the median of its own seconds less the
base's in the same round. Processor time, which a busy machine stretches less than the wall. Promised: at most 0.25 of
PEFT's cost from four adapters on, never more than PEFT's; an error against float64 no larger than PEFT's.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
HEAD = (
    "phase",
    "rows",
    "adapters",
    "base ms",
    "PEFT +ms (quartiles)",
    "%",
    "ours +ms (quartiles)",
    "%",
    "ours / PEFT",
    "bound",
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 16
PHASES = {"decode b8": (8, 1), "decode b32": (32, 1), "prefill 8x32": (8, 32)}
PROMPT = 16
SIDES = ("peft", "ours")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=21)
    options.add_argument("--phases", default=",".join(PHASES))
    options.add_argument("--spreads", default="one,identical,uniform,zipf,distinct,one+base")
    options.add_argument("--device", default="cpu")
    options.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    given = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    phases = given.phases.split(",")
    most = max(PHASES[phase][0] for phase in phases)
    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(torch, Path(folder), most, given.device)
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    print(
        f"torch {torch.__version__}, 1 thread, {given.clock} time, load {os.getloadavg()[0]:.1f}, {given.runs} rounds"
    )
    print(f"\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for phase in phases:
        for spread in given.spreads.split(","):
            row(torch, sides, (phase, spread), given.runs, clock)
    errors(torch, sides, min(most, 8))


def row(torch, sides, case, runs, clock):
    phase, spread = case
    batch, tokens = PHASES[phase]
    names = spread_names(spread, batch)
    calls = {side: make_call(torch, sides[side], side, names, tokens, mixed=spread != "one") for side in sides}
    seconds = in_turn(calls, runs, clock)
    base = statistics.median(seconds["base"])
    costs = {side: [own - least for own, least in zip(seconds[side], seconds["base"], strict=True)] for side in SIDES}
    middle = {side: statistics.median(cost) for side, cost in costs.items()}
    ratio = middle["ours"] / middle["peft"]
    count = len(set(names) - {"__base__"})
    bound = 0.25 if count >= 4 else 1.0
    cells = [phase, spread, str(count), f"{1e3 * base:.2f}"]
    for side in SIDES:
        low, _, high = statistics.quantiles(costs[side], n=4)
        cells += [f"{1e3 * middle[side]:.2f} ({1e3 * low:.2f} to {1e3 * high:.2f})", f"{100 * middle[side] / base:.0f}"]
    print(f"| {' | '.join(cells)} | {ratio:.2f} | {bound} {'held' if ratio <= bound else 'MISSED'} |", flush=True)


def spread_names(spread, batch):
    """The adapter of each row, in a drawn order."""
    sizes = {"one": [batch], "identical": [batch], "distinct": [1] * batch, "one+base": [batch // 2]}.get(spread)
    if spread == "uniform":
        groups = round(batch**0.5 + 0.49)
        sizes = [batch // groups + (place < batch % groups) for place in range(groups)]
    if spread == "zipf":
        sizes, left = [], batch
        while left:  # each group a third of what is left: sizes fall by 1.5
            sizes.append(max(1, round(left / 3)))
            left -= sizes[-1]
    names = [f"a{group}" for group, size in enumerate(sizes) for _ in range(size)]
    names += ["__base__"] * (batch - len(names))
    random.Random(0).shuffle(names)
    return names


def make_sides(torch, folder, most, device):
    """Side to (what is called, its model): three copies of one model, the adapters loaded from files."""
    import copy

    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    from engine.model.runtime import Runtime

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval().to(device)
    adapters = [write_adapter(torch, folder / f"a{place}", place) for place in range(most)]
    theirs, own = copy.deepcopy(model), copy.deepcopy(model)
    theirs = PeftModel.from_pretrained(theirs, adapters[0], adapter_name="a0").eval()
    runtime = Runtime(own, slots=most, target_rank=RANK)
    for adapter in adapters:
        if adapter.name != "a0":
            theirs.load_adapter(adapter, adapter_name=adapter.name)
        runtime.load(adapter.name, adapter)
    return {"base": (model, model), "peft": (theirs, theirs), "ours": (runtime, own)}


def write_adapter(torch, folder, seed):
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir()
    wide, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    sizes = dict.fromkeys(TARGETS, (wide, wide)) | dict.fromkeys(TARGETS[4:6], (wide, inner))
    sizes["down_proj"] = (inner, wide)
    tensors = {}
    for layer in range(SHAPE["num_hidden_layers"]):
        for target, (fan_in, fan_out) in sizes.items():
            part = "self_attn" if target in TARGETS[:4] else "mlp"
            name = f"base_model.model.model.layers.{layer}.{part}.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, fan_in) * 0.02
            tensors[f"{name}.lora_B.weight"] = torch.randn(fan_out, RANK) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": TARGETS}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_call(torch, made, side, names, tokens, *, mixed):
    """(prepare, run): one forward of this side with a cache of its own; only run is timed."""
    from transformers import DynamicCache

    called, model = made
    ids = inputs(torch, model, len(names), PROMPT + tokens)
    extra = {"adapter_names": names} if mixed and side != "base" else {}
    if not mixed and side == "peft":
        called.set_adapter(names[0])
    if side == "ours":
        called.activate(None if mixed else names[0])
    if tokens > 1:
        return lambda: None, lambda: step(torch, called, ids[:, :tokens], extra)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        called(ids[:, :PROMPT], past_key_values=cache, use_cache=True, **extra)
    extra |= {"past_key_values": cache, "use_cache": True}
    return lambda: cache.crop(PROMPT - cache.get_seq_length()), lambda: step(torch, called, ids[:, PROMPT:], extra)


def inputs(torch, model, batch, tokens):
    device = next(model.parameters()).device
    return torch.arange(batch * tokens, device=device).reshape(batch, -1) * 7919 % SHAPE["vocab_size"]


def errors(torch, sides, batch):
    """Logits of one batch against PEFT's own in float64: what rounding each side adds."""
    import copy

    names = [f"a{place}" for place in range(batch)]
    ids = inputs(torch, sides["base"][1], batch, 32)
    with torch.inference_mode():
        found = {side: sides[side][0](ids, adapter_names=names).logits for side in SIDES}
        truth = copy.deepcopy(sides["peft"][0]).double()(ids, adapter_names=names).logits
    print(f"\n| logits of {batch} adapters, {batch} x 32 | root mean square off float64 | largest |\n|---|---|---|")
    for side, logits in found.items():
        off = (logits - truth).abs()
        print(f"| {side} | {off.square().mean().sqrt():.3e} | {off.max():.3e} |")


def step(torch, called, ids, extra):
    with torch.inference_mode():
        called(ids, logits_to_keep=1, **extra)
        if ids.is_cuda:
            torch.cuda.synchronize()


def in_turn(calls, runs, clock):
    """Side to seconds of each round; the first rounds do not count."""
    seconds = {side: [] for side in calls}
    order = list(calls)
    shuffled = random.Random(1)
    for place in range(runs + 2):
        shuffled.shuffle(order)
        for side in order:
            prepare, run = calls[side]
            prepare()
            start = clock()
            run()
            if place > 1:
                seconds[side].append(clock() - start)
    return seconds


if __name__ == "__main__":
    main()
