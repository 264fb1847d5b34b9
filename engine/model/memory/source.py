"""Where a loaded adapter came from, and how it is read again without taking other content under its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import EngineError, SourceGoneError, UnreadableError, WrongBytesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.part import Part
    from engine.model.memory.given import Given
    from engine.model.memory.image import Image
    from engine.model.memory.layout import Layout

_COLUMNS = 8191
"""Words side by side when a mark is taken: prime, so that equal tensors that change places do not cancel out."""


@dataclass(frozen=True, slots=True)
class Source:
    """What was given, its facts as they were when it was loaded, the layout it was read into then, the mark of that."""

    facts: AdapterFacts
    layout: Layout
    mark: int
    given: Given


def mark_of(data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> int:
    """A number that bytes (n,) which are not the same have not by accident. Costs one pass; no defence against an
    author who wants two contents to agree.
    """
    whole = data.size // 8 * 8
    words = data[:whole].view(np.int64)
    rows = words.size // _COLUMNS
    grid = words[: rows * _COLUMNS].reshape(rows, _COLUMNS)
    sums = grid.sum(axis=0, dtype=np.int64)
    return hash((sums.tobytes(), words[rows * _COLUMNS :].tobytes(), data[whole:].tobytes()))


def read_again(source: Source, parts: Sequence[Part], dtype: torch.dtype, *, pinned: bool) -> Image:
    """The image of the same files, read again. Raises SourceGoneError where they vanished or say something else."""
    try:
        facts = source.given.facts(source.facts)
    except EngineError as error:
        raise SourceGoneError(source.facts.path, f"cannot be read again: {error}") from error
    if facts.header != source.facts.header or facts.config.raw != source.facts.config.raw:
        raise changed(source)
    try:
        image, mark = source.given.image(facts, parts, source.layout, dtype, pinned=pinned)
    except (UnreadableError, WrongBytesError) as error:
        raise changed(source) from error
    if mark != source.mark:
        raise changed(source)
    return image


def changed(source: Source) -> SourceGoneError:
    """The error for files that hold other content than when they were loaded."""
    return SourceGoneError(source.facts.path, "changed since it was loaded; load it under another name, or swap to it")
