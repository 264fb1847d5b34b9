"""Where a loaded adapter came from, and how it is read again without taking other content under its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import EngineError, SourceGoneError
from engine.format.adapter import read_adapter

if TYPE_CHECKING:
    from engine.format.facts import AdapterFacts
    from engine.model.memory.layout import Layout

_COLUMNS = 8191
"""Words side by side when a mark is taken: prime, so that equal tensors that change places do not cancel out."""


@dataclass(frozen=True, slots=True)
class Source:
    """The folder's facts as they were when it was loaded, the layout it was read into then, and the mark of that."""

    facts: AdapterFacts
    layout: Layout
    mark: int


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


def read_again(source: Source) -> AdapterFacts:
    """The facts of the same files, read again. Raises SourceGoneError where they vanished or say something else."""
    folder = source.facts.path
    try:
        facts = read_adapter(folder, alike=source.facts)
    except EngineError as error:
        raise SourceGoneError(folder, f"cannot be read again: {error}") from error
    if facts.header != source.facts.header or facts.config.raw != source.facts.config.raw:
        raise changed(source)
    return facts


def changed(source: Source) -> SourceGoneError:
    """The error for files that hold other content than when they were loaded."""
    return SourceGoneError(source.facts.path, "changed since it was loaded; load it under another name, or swap to it")
