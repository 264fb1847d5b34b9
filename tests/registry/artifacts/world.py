"""A base and two adapters in a registry, and what their merge is by hand."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from tests.factories import make_settings
from tests.registries import MODULES, factors, make_adapter, make_base

if TYPE_CHECKING:
    from pathlib import Path

    from registry.api import Registry

UNTOUCHED = ("model.embed_tokens.weight", "model.norm.weight")


def fill(registry: Registry, folder: Path) -> None:
    """team/base at ./base; team/a and team/b, rank 2 and scaling 2, at ./a and ./b."""
    registry.add_base(make_base(folder / "base"), names=["team/base"])
    registry.push(make_adapter(folder / "a", seed=1), "team/a")
    registry.push(make_adapter(folder / "b", seed=2), "team/b")


def sqlite_alone(template: Path, folder: Path) -> str:
    """The URL of an unused SQLite catalog, for tests whose facts no database changes; rows are tested on both."""
    file = make_settings(folder / "home").catalog_file
    file.parent.mkdir()
    shutil.copyfile(template, file)
    return f"sqlite:///{file}"


def expected(base: Path, weights: dict[int, float]) -> dict[str, np.ndarray]:
    """W + Σ w·2·B·A in float64, rounded once; `weights` by the seed of an adapter."""
    found = dict(load_file(base / "model.safetensors"))
    for module in MODULES:
        total = found[f"{module}.weight"].astype(np.float64)
        for seed, weight in weights.items():
            one = factors(seed)
            a, b = (one[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
            total = total + weight * 2 * b @ a
        found[f"{module}.weight"] = total.astype(np.float32)
    return found


def flip(file: Path, offset: int = -1) -> None:
    """Changes one bit of a file; its size stays."""
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def delete(folder: Path) -> None:
    """Removes a folder of plain files."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
