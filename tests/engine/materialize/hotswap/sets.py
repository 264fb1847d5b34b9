"""Sets of adapters, each with the model it is for, and runtimes to hold against each other."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import torch

from engine.model.runtime import Runtime
from tests.engine.model.drawn import base as family_base
from tests.engine.model.drawn import peft_model, saved
from tests.engine.model.live import llama, lora_folder

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.arange(12).reshape(2, 6)


def folders(tmp_path: Path, model: torch.nn.Module, *settings: dict[str, Any]) -> dict[str, Path]:
    """An adapter per settings, named `a`, `b`, …"""
    named = zip("abcdef", settings, strict=False)
    return {name: lora_folder(tmp_path / name, model, seed=ord(name), **one) for name, one in named}


def family_folders(tmp_path: Path, family: str, *settings: dict[str, Any]) -> dict[str, Path]:
    """The same for a family of tests.engine.model.drawn, DoRA's magnitudes and copies near the base's."""
    found = {}
    for name, one in zip("abcdef", settings, strict=False):
        wrapped = peft_model(copy.deepcopy(family_base(family)), one, seed=ord(name))
        found[name] = saved(wrapped, tmp_path / name)
    return found


def config_alone(model: torch.nn.Module, folder: Path) -> Path:
    """A base of which there is config.json and no weights."""
    folder.mkdir()
    told = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def runtime(model: torch.nn.Module, adapters: dict[str, Path], **room: Any) -> Runtime:
    """A runtime on a copy of the model with these adapters, from folders or from files of images."""
    made = Runtime(copy.deepcopy(model), **room)
    for name, path in adapters.items():
        made.load(name, path)
    return made


def small(**changes: Any) -> torch.nn.Module:
    """A Llama of one layer."""
    return llama(num_hidden_layers=1, **changes)


def mapped(made: Runtime, name: str) -> bool:
    """Whether the adapter's image is the file's own pages."""
    return made._residence.image(name).mapped is not None
