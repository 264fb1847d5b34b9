"""Drawn models under PEFT: small layers of every kind, one to four adapters of drawn shape, alpha never equal to r."""

import random
from dataclasses import dataclass

import peft
import pytest
import torch
import transformers
from torch import nn

FAMILIES = ("linear", "embedding", "conv1d-hf", "conv2d", "points", "deep", "patterns", "equal patterns", "mixed")
"""What is drawn: kinds of layers, or of rank patterns."""


@dataclass(frozen=True)
class Drawn:
    """A PEFT model with its adapters' names, folders and drawn weights; and the generator for what else is drawn."""

    name: str
    model: peft.PeftModel
    names: list[str]
    folders: list
    weights: list[float]
    draw: random.Random


def layers(family, draw):
    """Modules whose natural order is that of their definition, as it is in most models."""

    def size():
        return draw.randint(6, 20)

    kinds = {
        "linear": lambda: nn.Linear(size(), size(), bias=False),
        "embedding": lambda: nn.Embedding(size() + 10, size()),
        "conv1d-hf": lambda: transformers.pytorch_utils.Conv1D(size(), size()),
        "conv2d": lambda: nn.Conv2d(draw.randint(2, 5), draw.randint(4, 9), draw.choice([(3, 3), (1, 2), (3, 1)])),
        "points": lambda: nn.Conv2d(draw.randint(3, 9), draw.randint(4, 9), 1),
    }
    kinds |= dict.fromkeys(("patterns", "equal patterns"), kinds["linear"])
    if family == "deep":
        return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(7, 6) for _ in range(11))})
    chosen = ["linear", "embedding", "conv2d", "points"] if family == "mixed" else [family] * 3
    return nn.ModuleDict({f"m{place}": kinds[kind]() for place, kind in enumerate(chosen)})


def configs(family, base, count, draw):
    """A LoraConfig for each adapter: equal ranks twice in three times, for the types that ask for it."""
    names = [name for name, module in base.named_modules() if name and not list(module.children())]
    equal = family == "equal patterns" or (family != "patterns" and draw.random() < 0.67)
    rank, pattern = draw.randint(2, 5), {draw.choice(names): draw.randint(1, 6)}
    for _ in range(count):
        own = rank if equal else draw.randint(1, 6)
        targets = [name for name in names if name in pattern or draw.random() < 0.75]
        more = {}
        if family == "patterns":
            more["rank_pattern"] = {draw.choice(targets): draw.randint(1, 6)}
        if family == "equal patterns":
            more["rank_pattern"] = pattern
        if draw.random() < 0.5:
            more["alpha_pattern"] = {draw.choice(targets): own + draw.randint(1, 9)}
        yield peft.LoraConfig(
            r=own,
            lora_alpha=draw.choice([own + 1, 2 * own + 3, 0.5 * own]),
            use_rslora=draw.random() < 0.3,
            fan_in_fan_out=family == "conv1d-hf",
            target_modules=targets,
            **more,
        )


def draw_model(family, seed, folder):
    draw = random.Random(f"{family} {seed}")
    count = 1 if seed == 0 else draw.randint(2, 4)
    base = layers(family, draw)
    names = [f"p{place}" for place in range(count)]
    first, *rest = configs(family, base, count, draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = peft.PeftModel(base, first, adapter_name=names[0])
        for name, config in zip(names[1:], rest, strict=True):
            model.add_adapter(name, config)
        generator = torch.Generator().manual_seed(draw.randrange(2**32))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.save_pretrained(folder, save_embedding_layers=False)
    weights = [draw.choice([-1, 1]) * draw.uniform(0.1, 1.3) for _ in names]
    return Drawn(f"{family}-{seed}", model, names, [folder / name for name in names], weights, draw)


def merged_by_peft(drawn, kind, *, seed, **options):
    """ΔW of every module after add_weighted_adapter, in float64, seeded once the new adapter's start is drawn."""
    inner = drawn.model.base_model
    inject = inner.inject_adapter

    def seeded(*arguments, **more):
        inject(*arguments, **more)
        torch.manual_seed(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner, "inject_adapter", seeded)
        try:
            inner.add_weighted_adapter(
                drawn.names, drawn.weights, "merged", combination_type=kind, svd_full_matrices=False, **options
            )
            return by_factors(drawn.model, "merged")
        finally:
            inner.delete_adapter("merged")


def by_factors(model, adapter):
    """Module to scaling·B·A."""
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        if adapter in layer.lora_A:
            A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        elif adapter in layer.lora_embedding_A:
            A, B = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        else:
            continue
        product = B.detach().double().flatten(1) @ A.detach().double().flatten(1)
        found[name] = layer.scaling[adapter] * product.numpy()
    return found
