"""Rows of torch's MultiheadAttention, whose batch may be the second dimension and whose mask may count heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BatchError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.model.batches.batch import BatchPlan
    from engine.model.sites.replaced import Replaced


def attention_rows(group: Replaced, plan: BatchPlan, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Attention with each row through its own adapter; the base's rows keep their bits.

    Raises BatchError for a query without a batch.
    """
    call = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
    if query.dim() != 3:
        raise BatchError(f"{group.path}: a batch of several adapters needs inputs with a batch, found {query.dim()}-D")
    dim = 0 if group.module.batch_first else 1
    result, weights = group.original(query, **call)
    for slot in plan.slots:
        tensors = group.tensors((slot,), (1.0,))
        if tensors:
            rows = plan.places(slot, query.shape[dim], query.device, group.path)
            few = _taken(call, rows, dim, query.shape[dim])
            part, part_weights = group.call(tensors, (query.index_select(dim, rows),), few)
            result = result.index_copy(dim, rows, part)
            weights = None if weights is None else weights.index_copy(0, rows, part_weights)
    return result, weights


def _taken(call: dict[str, Any], rows: Tensor, dim: int, count: int) -> dict[str, Any]:
    found = dict(call)
    for name in ("key", "value"):
        found[name] = call[name].index_select(dim, rows)
    padding, mask = call.get("key_padding_mask"), call.get("attn_mask")
    if padding is not None:
        found["key_padding_mask"] = padding.index_select(0, rows)
    if isinstance(mask, torch.Tensor) and mask.dim() == 3:  # (rows·heads, length, length)
        found["attn_mask"] = mask.view(count, -1, *mask.shape[1:]).index_select(0, rows).flatten(0, 1)
    return found


_ARGUMENTS = (
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
)
