"""Adapters that PEFT itself made for small models, and what PEFT computes with them: the judge of every kind."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peft import PeftConfig
    from torch import Tensor

_NEAR_ONE = ("magnitude", "ia3_l")


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT warns of what is meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def saved(folder: Path, model: nn.Module, config: PeftConfig, *, seed: int = 1) -> Path:
    """An adapter for a copy of this model as PEFT saves it, with random numbers, none at its start value."""
    with quiet():
        wrapped = get_peft_model(copy.deepcopy(model), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if any(part in name for part in _NEAR_ONE):
                    parameter.mul_(torch.rand(parameter.shape, generator=generator) + 0.5)
                elif parameter.requires_grad and "ranknum" not in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        wrapped.save_pretrained(folder)
    return folder


def run(model: nn.Module, folders: Sequence[Path], *inputs: Tensor) -> Tensor:
    """What PEFT computes with these adapters on, in this order."""
    with quiet(), torch.no_grad():
        wrapped = PeftModel.from_pretrained(copy.deepcopy(model), folders[0], adapter_name="n0").eval()
        for place, folder in enumerate(folders[1:], 1):
            wrapped.load_adapter(folder, f"n{place}")
        wrapped.base_model.set_adapter([f"n{place}" for place in range(len(folders))])
        found: Tensor = wrapped(*inputs)
        return found


class Linears(nn.Module):
    """Linear layers with and without bias, a Conv1D of transformers, a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.turned = Conv1D(10, 16)
        self.square = Conv1D(10, 10)
        self.last = nn.Linear(10, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.square(self.turned(self.norm(torch.tanh(self.one(x))))))


class Scaled(nn.Embedding):
    """An embedding that multiplies what it looks up, as Gemma's does."""

    def __init__(self, count: int, dim: int, scale: float) -> None:
        super().__init__(count, dim, padding_idx=0)
        self.register_buffer("embed_scale", torch.tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.embed_scale.to(self.weight.dtype)


class Embeddings(nn.Module):
    """Two tables, one of which scales."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.scaled = Scaled(20, 12, 3.5)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.words(x)) + self.scaled(x))


class Line(nn.Module):
    """Convolutions over one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(4, 8, 3, padding=1)
        self.groups = nn.Conv1d(8, 8, 3, stride=2, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv1d(8, 6, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.tanh(self.groups(torch.tanh(self.one(x))))))


class Plane(nn.Module):
    """Convolutions over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, (3, 5), padding="same", padding_mode="circular")
        self.groups = nn.Conv2d(8, 12, 3, stride=(2, 1), padding=1, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.tanh(self.groups(torch.tanh(self.one(x))))))


class Space(nn.Module):
    """Convolutions over three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv3d(2, 6, 2, padding=(1, 0, 0))
        self.last = nn.Conv3d(6, 4, (1, 2, 1), groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.one(x)))


def seeded(model: type[nn.Module], seed: int = 0) -> nn.Module:
    """The model in eval mode, every parameter random, none at its start value."""
    module = model().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module
