"""Rows of an embedding that an adapter replaces for a few tokens, and the same rows in an output layer tied to it.

The tokens lie in an image as four digits each, which every dtype of an image holds exactly; all zeros are no token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.model.memory.tensordata import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.kinds.pick import Pick
    from engine.model.memory.layout import Want

_DIGITS, _BASE = 4, 128
"""128⁴ is more than any vocabulary; bfloat16 holds whole numbers up to 256."""


def row_shapes(want: Want, width: int) -> dict[str, Shape]:
    """The sections of replaced rows of that width."""
    if "rows" not in want.roles:
        return {}
    return {"rows": (want.tokens, width), "tokens": (want.tokens, _DIGITS)}


def raw_rows(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's rows and tokens by section."""
    return {"rows": tensors["rows"], "tokens": _written(part.tokens)} if "rows" in tensors else {}


def _written(tokens: Sequence[int]) -> Tensor:
    """The tokens as digits (n, 4) of token + 1; of a token that comes twice the last row counts, as in PEFT."""
    last = {token: place for place, token in enumerate(tokens)}
    numbers = torch.tensor([token + 1 if last[token] == place else 0 for place, token in enumerate(tokens)])
    powers = torch.tensor([_BASE**place for place in range(_DIGITS)])
    return numbers.view(-1, 1) // powers % _BASE


def _read(digits: Tensor) -> Tensor:
    """The tokens (..., n) of digits (..., n, 4); -1 for none."""
    powers = torch.tensor([_BASE**place for place in range(_DIGITS)], device=digits.device)
    return (digits.long() * powers).sum(-1) - 1


def replaced_rows(y: Tensor, base: Tensor, x: Tensor, pick: Pick, scale: Tensor | float) -> Tensor:
    """The embeddings y (..., dim) of the tokens x (...) with this adapter's rows in place of the base's.

    `base` is y before any adapter: what several replace for one token adds up by their ways from there.
    """
    if "rows" not in pick.sections:
        return y
    tokens, rows = _read(pick.of("tokens")), pick.of("rows")
    if pick.index is None:
        hits = x[..., None] == tokens
        found = rows[hits.int().argmax(-1)]
    else:
        hits = x[..., None] == tokens.view(x.shape[0], *([1] * (x.dim() - 1)), -1)
        found = rows[_rows_of(x), hits.int().argmax(-1)]
    found = found * scale
    if not (isinstance(pick.factor, float) and pick.factor == 1.0):
        share = pick.number(pick.factor, y)
        found = found * share + base * (1.0 - share)
    if y is not base:
        found = found + (y - base)  # nothing where y is the base's: a row alone keeps its bits
    return torch.where(hits.any(-1, keepdim=True), found, y)


def _rows_of(x: Tensor) -> Tensor:
    """For every entry of x its first coordinate."""
    return torch.arange(x.shape[0], device=x.device).view(-1, *([1] * (x.dim() - 1)))


def replaced_logits(y: Tensor, base: Tensor, x: Tensor, pick: Pick, bias: Tensor | None) -> Tensor:
    """The outputs y (..., vocabulary) of x (..., in), where the replaced rows of this adapter are the weight's rows.

    `base` is y before any adapter, with `bias`, which spreads over it, in it: no adapter's rows touch that.
    """
    if "rows" not in pick.sections:
        return y
    tokens, rows = _read(pick.of("tokens")), pick.of("rows")
    if pick.index is None:
        new = torch.nn.functional.linear(x, rows)  # (..., n)
        tokens = tokens.expand(new.shape)
    else:
        new = torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), rows.transpose(1, 2)).view(*x.shape[:-1], -1)
        tokens = tokens.view(x.shape[0], *([1] * (x.dim() - 2)), -1).expand(new.shape)
    places = tokens.clamp(min=0)
    old = base.gather(-1, places)
    if bias is not None:
        old = old - bias.expand_as(base).gather(-1, places)
    change = pick.taken(new - old)
    return y.scatter_add(-1, places, torch.where(tokens >= 0, change, 0.0))


def merged_rows(
    values: Mapping[str, Tensor],
    base: Callable[[], Tensor],
    views: Mapping[str, Tensor],
    part: Part,
    factor: float,
) -> dict[str, Tensor]:
    """A weight (vocabulary, dim) with `factor` times the way from the base's own rows to the part's in it.

    `values` are the present ones, `base` gives the weight without any adapter.
    """
    if "rows" not in part.tensors:
        return {}
    last = {token: place for place, token in enumerate(part.tokens)}
    W = values["weight"]
    tokens = torch.tensor(list(last), device=W.device)
    way = widened(views["rows"])[list(last.values())] - base()[tokens]
    return {"weight": W.index_add(0, tokens, (factor * way).to(W.dtype))}
