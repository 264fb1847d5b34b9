"""Which weights transformers packs when it quantises a model with bitsandbytes: asked of transformers itself.

Source: transformers 5.23.0 (`integrations/bitsandbytes.py` replace_with_bnb_linear, `quantizers/base.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.matching.seats import Seats
from engine.materialize.stored.checkpoint import CONFIG
from engine.model.skeleton import model_from_config

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.materialize.matching.frame import Frame


def linear_weights(frame: Frame, skipped: list[str] | None = None) -> dict[str, bool]:
    """The stored names of the weights to pack, and whether the model has them (in, out).

    All linear layers but output layers, tied ones and those kept in float32; `skipped` modules in place of these
    defaults. The model of the frame's config is built on the meta device. Raises BaseError where it does not build,
    RefusedError for a weight to pack that is not stored, or only together with others.
    """
    seats = Seats(frame)
    found = _packed(frame, skipped)
    names = {name: _stored(seats, name) for name in found}
    if missing := [name for name, stored in names.items() if stored is None]:
        raise RefusedError([_unmatched(name) for name in missing])
    return {stored: found[name] for name, stored in names.items() if stored is not None}


def left_plain(frame: Frame, skipped: list[str] | None, names: Collection[str]) -> list[str] | None:
    """The modules to leave as they are when transformers packs the frame's model, so that those of the weights `names`
    are among them; `skipped` itself where they are anyway.
    """
    packed = _packed(frame, skipped)
    more = [name.removesuffix(".weight") for name in names if name in packed]
    return [*_kept(_model(frame), skipped), *more] if more else skipped


def _stored(seats: Seats, name: str) -> str | None:
    """What the weight is stored as, None where no tensor is just it."""
    seat = seats.of(name)
    piece = seat.pieces[0] if seat is not None and len(seat.pieces) == 1 else None
    return piece.name if piece is not None and piece.is_whole and piece.name in seats.frame.tensors else None


def _packed(frame: Frame, skipped: list[str] | None) -> dict[str, bool]:
    """By the model's own name of each weight."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module

    model = _model(frame)
    kept = _kept(model, skipped)
    return {
        f"{name}.weight": isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if (isinstance(module, Conv1D) or type(module) is nn.Linear) and should_convert_module(name, kept)
    }


def _model(frame: Frame) -> Any:
    return model_from_config(frame.checkpoint.path / CONFIG, frame.config)


def _kept(model: Any, skipped: list[str] | None) -> list[str]:
    """The modules that transformers leaves as they are, in one order."""
    from transformers.quantizers.base import HfQuantizer

    return sorted(HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules))  # noqa: SLF001 - as its quantisers do


def _unmatched(name: str) -> Finding:
    message = (
        f"{name}: transformers would load it packed, but the base has no tensor that is just it; materialise without"
        " quantize, and quantise what transformers loads"
    )
    return Finding("quantise-unmatched", "error", message, "base", where=name)
