"""LoRA adapters on a live model, and a base model's shape without its weights. Needs torch, imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.errors import MissingExtraError

if TYPE_CHECKING:
    from engine.model.runtime import Runtime

__all__ = ["Runtime"]


def __getattr__(name: str) -> Any:
    """`Runtime`, imported with torch when it is asked for: the skeleton's callers need no runtime."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module("engine.model.runtime"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("running adapters", "torch", "engine") from error
