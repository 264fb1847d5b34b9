"""Embeddings, those that scale what they look up included. A lies as (vocabulary, r): a lookup reads one row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear

from engine.model.kinds.exact import exact
from engine.model.kinds.into import merged_outputs
from engine.model.kinds.kind import Kind
from engine.model.kinds.pick import picks
from engine.model.kinds.sections import cut
from engine.model.kinds.tokens import merged_rows, raw_rows, replaced_rows, row_shapes
from engine.model.kinds.vectors import gain, raw_vectors, step, vector_shapes
from engine.model.memory.tensordata import widened
from engine.model.weights.codec import own_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.kinds.pick import Pick
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site


def holds(module: nn.Module) -> bool:
    """Whether it is an embedding that leaves its table as it is: none that renormalises rows in its forward."""
    return isinstance(module, nn.Embedding) and module.max_norm is None


def _sizes(module: nn.Module) -> tuple[int, int]:
    """(vocabulary, dim)."""
    if not isinstance(module, nn.Embedding):
        raise TypeError(f"expected an embedding, found {type(module).__name__}")
    return module.num_embeddings, module.embedding_dim


def _scale(module: nn.Module) -> float | Tensor:
    """What the module multiplies its rows with; 1 where it does not."""
    scale = getattr(module, "embed_scale", 1.0)
    return scale.float() if isinstance(scale, torch.Tensor) else float(scale)


def expects(part: Part) -> dict[str, Shape]:
    count, dim = _sizes(part.module)
    return {
        "A": (part.rank, count),
        "B": (dim, part.rank),
        "magnitude": (dim,),
        "rows": (len(part.tokens), dim),
    }


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    count, dim = _sizes(module)
    factors: dict[str, Shape] = {"table": (count, want.rank), "B": (dim, want.rank)} if want.rank else {}
    return factors | vector_shapes(want, count, dim) | row_shapes(want, dim)


def derived(part: Part, sections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DoRA's gain, whose norms are those of the table's columns."""
    if "magnitude" not in part.tensors:
        return {}
    with torch.no_grad():
        W = own_weight(part.module)
        table, B = (sections[name].to(W) for name in ("table", "B"))
        moved = torch.addmm(W.t(), B, table.t(), alpha=part.scaling)
    return {"gain": gain(sections["magnitude"], moved)}


def raw(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    found = raw_vectors(tensors) | raw_rows(part, tensors)
    return found | ({"table": tensors["A"].t(), "B": tensors["B"]} if "A" in tensors else {})


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    wanted = expects(part)
    held = {role: views["table"].t() if role == "A" else views[role] for role in part.tensors}
    return {role: cut(section, wanted[role]).contiguous() for role, section in held.items()}


def forward(site: Site, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    plan = site.switch.plan
    y: Tensor = site.original(x, *args, **kwargs)
    if plan is None:
        return y
    base = out = y.to(site.dtype)
    scale = _scale(site.module)
    with exact(x.device):
        steps = picks(site, plan, x)
        for pick in steps:
            out = replaced_rows(out, base, x, pick, scale)
        for pick in steps:
            out, _ = step(out, _low_rank(site.module, x, pick, scale), pick, None)
    return out.to(y.dtype)


def _low_rank(module: nn.Module, x: Tensor, pick: Pick, scale: float | Tensor) -> Tensor | None:
    """scale·A[x]·Bᵀ in the shape of the output; None where no adapter has factors here."""
    if "table" not in pick.sections:
        return None
    B = pick.of("B")
    if pick.index is None:
        rows = embedding(x, pick.of("table"), padding_idx=module.padding_idx)  # type: ignore[arg-type]  # an embedding's
        return linear(rows, B) * (scale * pick.scale)
    row = pick.index.view(-1, *([1] * (x.dim() - 1)))
    h = pick.sections["table"][row, x]  # (rows, ..., r)
    h = h * (pick.number(pick.scale, h) * scale)
    return torch.bmm(h.view(h.shape[0], -1, h.shape[-1]), B.transpose(1, 2)).view(*x.shape, -1)


def merged(
    site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    found = merged_rows(values, partial(own_weight, site.module), views, part, factor)
    D = None
    if "B" in part.tensors:
        table, B = widened(views["table"][:, : part.rank]), widened(views["B"][:, : part.rank])
        D = part.scaling * factor * (B @ table.t())
    W = found["weight"] if "weight" in found else values["weight"]
    turned = merged_outputs({"weight": W.t()}, views, part, factor, D)
    return found | {name: value.t() for name, value in turned.items()}


EMBEDDING = Kind("embedding", holds, shapes, raw, stored, forward, merged, expects=expects, derived=derived)
