"""Which form each tensor of a result takes, and what config.json says of it; what would lose ΔW is refused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.compat.layers import TRANSPOSED_TYPES
from engine.errors import MissingExtraError, RefusedError
from engine.format.base import config_facts
from engine.materialize.matching.frame import Frame
from engine.materialize.quantising.convertible import left_plain, linear_weights
from engine.materialize.quantising.forms import packed_form, plain_form, same_form
from engine.materialize.stored.numbers import NAMES
from engine.materialize.stored.packed import FOUR_BITS, INT8
from engine.materialize.stored.place import PLAIN
from engine.merge.dtypes import SIZES
from engine.model.memory.tensordata import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.outputs import Output, Outputs
    from engine.materialize.quantising.forms import Form
    from engine.materialize.request import Request
    from engine.materialize.stored.checkpoint import Checkpoint
    from engine.materialize.stored.place import Stored

QUANTIZATION = "quantization_config"
_SKIPPED = "llm_int8_skip_modules"


@dataclass(frozen=True, slots=True)
class Forms:
    """One form per output, in their order, and config.json's keys that follow (None takes a key away)."""

    rows: tuple[Form, ...]
    config: Mapping[str, Any]


def forms(found: Outputs, checkpoint: Checkpoint, request: Request) -> Forms:
    """Raises RefusedError for what cannot be done, BaseError for a base whose model does not build where its layers
    must be known.
    """
    if request.quantize is None:
        return _plain(found, checkpoint, request)
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("packing weights", "bitsandbytes", "engine")
    if any(output.source.encoding != PLAIN for output in found.tensors):
        return _repacked(found, checkpoint, request)
    return _packed(found, checkpoint, request)


def _plain(found: Outputs, checkpoint: Checkpoint, request: Request) -> Forms:
    packed = [output.name for output in found.tensors if output.source.encoding != PLAIN]
    turned: Mapping[str, bool] = {}
    if packed and checkpoint.config.get("model_type") in TRANSPOSED_TYPES:
        turned = linear_weights(_frame(found, checkpoint))
    rows = tuple(
        plain_form(
            output.source, _dtype(output, request), turned=output.name in packed and turned.get(output.name, False)
        )
        for output in found.tensors
    )
    return Forms(rows, {QUANTIZATION: None} if QUANTIZATION in checkpoint.config else {})


def _packed(found: Outputs, checkpoint: Checkpoint, request: Request) -> Forms:
    """From numbers in full: what transformers would pack."""
    frame = _frame(found, checkpoint)
    skipped = None if found.headed is None else left_plain(frame, None, found.headed.brought)
    linear = linear_weights(frame, skipped)
    rows = tuple(_form(output, request, turned=linear.get(output.name)) for output in found.tensors)
    return Forms(rows, {QUANTIZATION: _section(request, frame.config, skipped)})


def _form(output: Output, request: Request, *, turned: bool | None) -> Form:
    if turned is None or request.quantize is None:
        return plain_form(output.source, _dtype(output, request))
    nested = request.double_quantize
    return packed_form(output.source, request.quantize, _dtype(output, request), nested=nested, turned=turned)


def _repacked(found: Outputs, checkpoint: Checkpoint, request: Request) -> Forms:
    """From packed numbers: what was packed is again; the same kind keeps its own settings, and unchanged its bytes."""
    _hold_twin(found, request)
    rows = tuple(_again(output, checkpoint.tensors.get(output.name), request) for output in found.tensors)
    old = checkpoint.config.get(QUANTIZATION)
    skipped = own = old.get(_SKIPPED) if isinstance(old, dict) else None
    if found.headed is not None:
        plain = [output.name for output, form in zip(found.tensors, rows, strict=True) if form.stored.encoding == PLAIN]
        skipped = left_plain(_frame(found, checkpoint), own, plain)
    if isinstance(old, dict) and all(output.source.encoding in (PLAIN, request.quantize) for output in found.tensors):
        return Forms(rows, {} if skipped == own else {QUANTIZATION: {**old, _SKIPPED: skipped}})
    return Forms(rows, {QUANTIZATION: _section(request, checkpoint.config, skipped)})


def _again(output: Output, before: Stored | None, request: Request) -> Form:
    """`before` is what the base has under that name: a copy of a packed weight is packed like it."""
    source = output.source
    copied = before is not None and before.encoding != PLAIN and before.shape == source.shape
    if request.quantize is None or (source.encoding == PLAIN and not copied):
        return plain_form(source, _dtype(output, request))
    if source.encoding == request.quantize:
        return same_form(source, changed=bool(output.changes))
    return packed_form(source, request.quantize, _dtype(output, request), nested=request.double_quantize)


def _hold_twin(found: Outputs, request: Request) -> None:
    lost = [output.name for output in found.tensors if output.changes and output.source.encoding in FOUR_BITS]
    if lost and request.quantize in FOUR_BITS and not request.lossy:
        message = (
            f"the base has 4 bits and its full-precision twin is unknown: {len(lost)} weights ({lost[0]}, …) would be"
            " rounded onto their own 4-bit grid, where little of an update survives; give the full-precision checkpoint"
            " as base, or leave --quantize out, or take the loss with --lossy"
        )
        raise RefusedError([Finding("twin-unknown", "error", message, "base", where=lost[0])])


def _dtype(output: Output, request: Request) -> str:
    """Of the numbers as a model has them; a cast leaves whole ones what they are."""
    own = output.dtype or output.source.numbers
    return request.dtype if request.dtype and own in SIZES else own


def _frame(found: Outputs, checkpoint: Checkpoint) -> Frame:
    """The result as adapters would find it."""
    merged = {**checkpoint.config, **found.config}
    config = {key: value for key, value in merged.items() if value is not None and key != QUANTIZATION}
    return Frame(checkpoint, {output.name: output.source for output in found.tensors}, config)


def _section(request: Request, config: Mapping[str, Any], skipped: list[str] | None) -> dict[str, Any]:
    """What transformers' own configuration of bitsandbytes writes; 4-bit layers compute in the other weights' dtype."""
    from transformers import BitsAndBytesConfig

    dtype = request.dtype or NAMES.get(config_facts(config)["dtype"] or "", "")
    compute = (
        str(DTYPES[dtype]).removeprefix("torch.") if dtype in ("BF16", "F16") and request.quantize != INT8 else None
    )
    made = BitsAndBytesConfig(  # type: ignore[no-untyped-call]  # theirs
        load_in_8bit=request.quantize == INT8,
        load_in_4bit=request.quantize in FOUR_BITS,
        llm_int8_skip_modules=skipped,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_type=request.quantize if request.quantize in FOUR_BITS else "fp4",
        bnb_4bit_use_double_quant=request.quantize in FOUR_BITS and request.double_quantize,
    ).to_dict()
    return {key: getattr(value, "value", value) for key, value in made.items()}
