"""What PEFT and plain transformers make of the same files: the judge of merged checkpoints."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from engine.materialize import Request, Source, materialize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

IDS = torch.arange(18).reshape(3, 6)
NEAR = 2e-6
"""Of the largest number: float32 in another order."""


def saved(model: Any, folder: Path, **options: Any) -> Path:
    """The model as a base on disk."""
    model.save_pretrained(folder, **options)
    return folder


def out(model: nn.Module, *inputs: Tensor, **more: Any) -> Tensor:
    """The logits, or the first result, for `inputs` (token ids)."""
    with torch.inference_mode():
        result = model(*(inputs or (() if more else (IDS,))), **more)
    found: Tensor = result if isinstance(result, torch.Tensor) else getattr(result, "logits", result[0])
    return found.clone()


def beside(model: nn.Module, folders: Sequence[Path]) -> PeftModel:
    """The model with the adapters on in PEFT, nothing merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel.from_pretrained(copy.deepcopy(model), folders[0], adapter_name="n0")
        for place, folder in enumerate(folders[1:], 1):
            wrapped.load_adapter(folder, f"n{place}")
        wrapped.base_model.set_adapter([f"n{place}" for place in range(len(folders))])
    return wrapped.eval()


def merged(base: Path, folders: Sequence[Path], to: Path, weights: Sequence[float] = (), **request: Any) -> Path:
    """The checkpoint of the base with the adapters in it."""
    taken = weights or [1.0] * len(folders)
    sources = tuple(Source(folder, weight) for folder, weight in zip(folders, taken, strict=True))
    materialize(Request(base=base, sources=sources, **request), to)
    return to


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, of however many files."""
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def close(found: Tensor, expected: Tensor, near: float = NEAR) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= near * expected.abs().max()
