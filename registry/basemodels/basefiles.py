"""A base model's folder, read from its safetensors headers or from its config alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.format.base import read_base
from engine.format.basenorms import base_norms
from registry.errors import IntakeError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.format.facts import BaseFacts


def read_base_place(place: Path) -> BaseFacts:
    """The facts of a base at a path: a folder with safetensors, a safetensors file, or a folder or file with a config.

    IntakeError where nothing is there, engine.errors.BaseError where what is there cannot be read.
    """
    if not place.exists():
        raise IntakeError(f"{place}: no such file or folder")
    if place.is_file() and place.suffix == ".json":
        return _from_config(place)
    if place.is_dir() and not any(place.glob("*.safetensors")):
        if (place / "config.json").is_file():
            return _from_config(place)
        raise IntakeError(f"{place}: holds neither safetensors nor config.json")
    return read_base(place)


def _from_config(place: Path) -> BaseFacts:
    from registry.operations import base_from_config

    return base_from_config(place)


def with_norms(place: Path, facts: BaseFacts) -> BaseFacts:
    """The base with the norm of every weight, which reads all of its files once; IntakeError for a config alone."""
    if facts.fingerprint is None:
        raise IntakeError(f"{place}: --norms reads the weights, and there are none beside the config")
    return replace(facts, norms=base_norms(place))
