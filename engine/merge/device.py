"""Where a merge computes, and which modules it takes together there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.merge.plan import ModulePlan

TOGETHER = 64
"""Modules of one shape in a batch on an accelerator, where a call costs more than the arithmetic of a small module.

A core of a CPU gains nothing from batches (measured at 384² to 4096²), so there every module is its own.
"""


def parse_device(text: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; raises OptionError for another word and for a device that is not here."""
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isascii() and index.isdigit())):
        raise OptionError(f"device {text!r}: expected cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if int(index or 0) >= count:
        found = f"torch sees {count}" if torch.version.cuda else "this torch was built without CUDA"
        raise OptionError(f"device {text}: not here ({found})")
    return torch.device(text)


def batches(modules: Iterable[ModulePlan], *, together: int) -> list[list[ModulePlan]]:
    """The modules in groups of equal shapes and ranks, `together` at most, in the order of each group's first.

    Depends on the modules alone, so that the same merge does the same arithmetic.
    """
    found: list[list[ModulePlan]] = []
    filling: dict[tuple[object, ...], list[ModulePlan]] = {}
    for module in modules:
        shapes = [(piece.module.a_shape, piece.module.b_shape, piece.dora is None) for piece in module.pieces]
        alike = (module.groups, module.experts, *shapes)
        batch = filling.get(alike)
        if batch is None or len(batch) == together:
            batch = filling[alike] = []
            found.append(batch)
        batch.append(module)
    return found
