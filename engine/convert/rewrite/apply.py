"""Writes a planned rewrite: the weights, tensor by tensor, then the configuration that makes the folder an adapter."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import config_bytes
from engine.convert.rewrite.stream import Rounding, made_blocks
from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME
from engine.format.files.tensorfile import TensorFile
from engine.format.files.writer import TensorWriter

if TYPE_CHECKING:
    from pathlib import Path

    from engine.convert.rewrite.draft import Origin
    from engine.convert.rewrite.plan import RewritePlan
    from engine.convert.rewrite.stream import Files
    from engine.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was written: tensors in all, bytes of the weights file, tensors in which a number was rounded, and the
    largest relative change (Frobenius) of one of them.
    """

    tensors: int
    size: int
    rounded: int
    largest_change: float


def apply_rewrites(plan: RewritePlan, out: Path) -> Rewritten:
    """Write the planned adapter's two files into the folder `out`, which has neither; a MiB or so in memory at a time.

    Raises RefusedError where a scaled number is not finite, HeaderError where a source changed since it was planned.
    What was begun stays in `out` then; without its configuration it is no adapter.
    """
    rounding, draft = Rounding(), plan.draft
    weights = out / WEIGHTS_NAME
    with ExitStack() as stack:
        sources: dict[Origin, AdapterFacts | None] = {"adapter": draft.source, "initial": plan.initial}
        files: Files = {
            origin: stack.enter_context(TensorFile(facts.weights, facts.header))
            for origin, facts in sources.items()
            if facts is not None
        }
        writer = stack.enter_context(
            TensorWriter(weights, {name: (made.dtype, made.shape) for name, made in draft.tensors.items()})
        )
        for name, made in draft.tensors.items():
            writer.put_blocks(name, made_blocks(name, made, files, rounding))
    (out / CONFIG_NAME).write_bytes(config_bytes(draft.config))
    return Rewritten(len(draft.tensors), weights.stat().st_size, rounding.tensors, rounding.largest)
