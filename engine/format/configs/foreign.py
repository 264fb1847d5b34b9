"""Recognises configurations of other libraries that also call their file adapter_config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGNS: tuple[tuple[str, frozenset[str]], ...] = (
    ("MLX", frozenset({"lora_parameters"})),
    ("MLX", frozenset({"lora_layers"})),
    ("MLX", frozenset({"fine_tune_type"})),
    ("AdapterHub", frozenset({"config", "hidden_size", "model_class"})),
    ("AdapterHub", frozenset({"config", "hidden_size", "model_type"})),
    ("diffusers", frozenset({"_diffusers_version"})),
    ("kohya-ss", frozenset({"ss_network_module"})),
    ("transformers", frozenset({"architectures"})),
    ("transformers", frozenset({"model_type"})),
)
"""Keys that together give a library away, the most telling first."""


def recognise(document: Mapping[str, Any]) -> str | None:
    """The library whose configuration `document` (one without `peft_type`) looks like, None where unknown."""
    return next((kind for kind, keys in _SIGNS if keys <= document.keys()), None)
