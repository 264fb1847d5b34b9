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


def seeded(model: type[nn.Module], seed: int = 0) -> nn.Module:
    """The model in eval mode, every parameter random, none at its start value."""
    module = model().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module
