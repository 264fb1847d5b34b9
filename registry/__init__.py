"""A registry for LoRA adapters. `Registry.open()` is where Python starts; importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.api import Registry

__all__ = ["Registry"]


def __getattr__(name: str) -> Any:
    # `adapters --help` imports this package too, and must not pay for the database layer.
    if name == "Registry":
        from registry.api import Registry

        return Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
