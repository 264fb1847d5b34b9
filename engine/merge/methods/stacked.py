"""`cat` and `linear`: Σ w_i·s_i·B_i·A_i with nothing lost, in the parents' own factors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.target import combination

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def stacked(parts: Parts, site: Site) -> Target:
    """The B_i side by side as they are, the w_i·s_i·A_i one above the other."""
    scales = [weight * part.scaling for weight, part in zip(site.weights, parts.items, strict=True)]
    column = torch.tensor(scales, dtype=torch.float64).repeat_interleave(torch.tensor(parts.ranks))
    A = parts.stacked_a * column.to(parts.stacked_a.device)[:, None]
    return replace(combination(parts.joint, site.weights), given=(parts.stacked_b, A))
