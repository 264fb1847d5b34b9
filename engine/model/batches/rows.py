"""Has a call to a model as many rows as it has names? Asked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_FIRST = ("inputs", "inputs_embeds", "input_ids", "decoder_input_ids")
"""What carries a transformers model's rows where its main input is not given; else the first tensor does."""


def check_rows(model: nn.Module, names: Sequence[str], args: Sequence[Any], inputs: Mapping[str, Any]) -> None:
    """Raises BatchError where a transformers model's input has another number of rows. Other modules' inputs have any
    shape; there every adapted module asks for its own.
    """
    main = getattr(model, "main_input_name", None)
    if main is None or isinstance(names, str) or not isinstance(names, Sequence):
        return
    found = _leading(args, inputs, (main, *_FIRST))
    if found is not None and found.shape[0] != len(names):
        raise BatchError(f"expected one adapter name for each of {found.shape[0]} rows, found {len(names)}")


def check_generation(model: nn.Module, args: Sequence[Any], inputs: Mapping[str, Any]) -> None:
    """Raises BatchError for Whisper's long recordings of several rows: its loop drops rows that are done."""
    if not hasattr(model, "_maybe_reduce_batch"):
        return
    features = _leading(args, inputs, ("input_features",))
    longest = 2 * model.config.max_source_positions  # type: ignore[union-attr, operator]  # the encoder halves
    if features is not None and features.shape[0] > 1 and features.shape[-1] > longest:
        raise BatchError(
            f"expected at most {longest} frames, found {features.shape[-1]}: rows of longer recordings end one by one;"
            " generate them one adapter at a time"
        )


def _leading(args: Sequence[Any], inputs: Mapping[str, Any], names: Sequence[str]) -> Tensor | None:
    values = [*args[:1], *(inputs.get(name) for name in names), *inputs.values()]
    return next((value for value in values if isinstance(value, torch.Tensor) and value.dim()), None)
