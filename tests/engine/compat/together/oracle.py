"""What the reference library does with two adapters: in one slot, in one batch."""

from __future__ import annotations

import copy
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from torch import nn

CLOSE = 2e-5


class Net(nn.Module):
    """One layer of every kind that rows can go through."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.lin0 = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 5)

    def forward(self, x, **_):
        return self.head(self.block(self.norm(torch.tanh(self.lin0(self.emb(x))))))


class Convs(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 8)
        self.one = nn.Conv1d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.three = nn.Conv3d(8, 8, 1)

    def forward(self, x, **_):
        found = self.one(self.emb(x).transpose(1, 2))
        found = self.grouped(self.two(found[..., None]))
        return self.three(found[..., None])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.mha = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x, **_):
        found = self.emb(x)
        return self.mha(found, found, found)[0]


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(6, 12))
        self.down = nn.Parameter(torch.randn(5, 6))
        self.each = nn.Parameter(torch.randn(3, 5, 5))

    def forward(self, x):
        return torch.einsum("bto,emo->btm", (x @ self.up.T) @ self.down.T, self.each)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.inner = Inner()

    def forward(self, x, **_):
        return self.inner(self.emb(x))


def fresh(make):
    torch.manual_seed(0)
    return make().eval()


def save(make, config, folder, seed):
    """An adapter whose every tensor was drawn at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(fresh(make), copy.deepcopy(config))
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".base_layer.weight" not in name and parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(folder)
    return folder


def _rows():
    return torch.arange(15).reshape(3, 5) % 20


def _alone(make, folder):
    with torch.no_grad():
        return PeftModel.from_pretrained(fresh(make), folder).eval()(_rows())


def swaps(make, first, folders):
    """'' where a slot that held `first` computes what each adapter computes alone, else what went wrong."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(fresh(make), first).eval()
        for folder in (*folders, first):
            try:
                hotswap_adapter(model, folder, "default", torch_device="cpu")
            except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
                return f"raises {type(error).__name__}: {error}"
            if not torch.allclose(model(_rows()), _alone(make, folder), atol=CLOSE):
                return f"another function for {folder}"
    return ""


def batches(make, folders):
    """'' where the rows of one batch are what each adapter computes alone, else what went wrong."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        names = [f"adapter_{place}" for place, _ in enumerate(folders)]
        try:
            model = PeftModel.from_pretrained(fresh(make), folders[0], adapter_name=names[0])
            for name, folder in zip(names[1:], folders[1:], strict=True):
                model.load_adapter(folder, name)
            mixed = model.eval()(_rows(), adapter_names=[*names, "__base__"])
        except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
            return f"raises {type(error).__name__}: {error}"
        wanted = torch.stack(
            [*(_alone(make, folder)[row] for row, folder in enumerate(folders)), fresh(make)(_rows())[2]]
        )
        return "" if torch.allclose(mixed, wanted, atol=CLOSE) else "another function"


def lora(**changes):
    return LoraConfig(**{"r": 4, "lora_alpha": 9, "target_modules": ["lin0", "head"], **changes})
