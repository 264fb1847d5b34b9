"""Adapters and how to rewrite them in a test: PEFT makes them, PEFT runs what was written."""

from __future__ import annotations

import json
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.convert.rewrite.apply import apply_rewrites
from engine.convert.rewrite.draft import draft_of
from engine.convert.rewrite.plan import RewritePlan
from engine.format.adapter import read_adapter
from tests.engine.compat.small_adapter import write_adapter


class Kinds(nn.Module):
    """Every layer kind that LoRA adapts by module, each reached by `forward`."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.lin0 = nn.Linear(12, 16)
        self.lin1 = nn.Linear(16, 12)
        self.turned = Conv1D(10, 12)
        self.one = nn.Conv1d(4, 6, 3)
        self.two = nn.Conv2d(4, 8, (3, 5))
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.three = nn.Conv3d(4, 6, 2)

    def forward(self, tokens, line, plane, wide, room):
        text = self.turned(self.lin1(torch.tanh(self.lin0(self.emb(tokens)))))
        images = (self.one(line), self.two(plane), self.grouped(wide), self.three(room))
        return torch.cat([text.flatten(), *(image.flatten() for image in images)])


def inputs():
    generator = torch.Generator().manual_seed(5)
    sizes = ((2, 4, 9), (2, 4, 6, 7), (2, 8, 5, 5), (2, 4, 4, 4, 4))
    tokens = torch.randint(20, (3, 7), generator=generator)
    return (tokens, *(torch.randn(size, generator=generator) for size in sizes))


def base(dtype=torch.float32):
    torch.manual_seed(0)
    return Kinds().to(dtype)


def save(folder, config, *, dtype=torch.float32, scale=0.3):
    """An adapter of `Kinds` whose factors are all drawn at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base(), config)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=scale)
                    parameter.data = parameter.data.to(dtype)
        model.save_pretrained(folder)
    return folder


def outputs(folder, *, merged=False):
    """What PEFT computes with the adapter on a fresh base, in float64 so that only the files differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base(), folder).double().eval()
        model = model.merge_and_unload() if merged else model
    tokens, *images = inputs()
    with torch.no_grad():
        return model(tokens, *(image.double() for image in images))


def alone():
    tokens, *images = inputs()
    with torch.no_grad():
        return base().double()(tokens, *(image.double() for image in images))


def relative(found, expected):
    """The largest difference of two outputs, as a fraction of what the adapter adds."""
    return float((found - expected).abs().max() / (expected - alone()).abs().max())


def rewritten(folder, out, *functions, initial=None):
    """Rewrites by the functions themselves, without asking an engine; what was written, and the configuration."""
    draft = draft_of(read_adapter(folder))
    for function in functions:
        draft = function(draft)
    out.mkdir()
    begun = None if initial is None else read_adapter(initial)
    done = apply_rewrites(RewritePlan(draft, (), (), begun), out)
    return done, config_of(out)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def lora(**options):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["lin0", "lin1"], **options})


__all__ = ["LoraConfig", "write_adapter"]
