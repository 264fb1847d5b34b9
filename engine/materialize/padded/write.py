"""Writes an adapter as a plain PEFT folder: as it is, or padded for hot swaps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.convert.rewrite.apply import apply_rewrites
from engine.convert.rewrite.plan import RewritePlan
from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from engine.format.select import select_files
from engine.materialize.folder.whole import whole_folder
from engine.materialize.padded.plan import plan_padded
from engine.materialize.stored.copying import copy_range
from engine.materialize.stored.files import opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_CONFIG_ROOM = 2**16
"""Bytes that a configuration may grow by: the names of all targets."""


@dataclass(frozen=True, slots=True)
class Padded:
    """What was written: the folder, its rank, how many of its modules there are and how many of those are all zeros,
    and, where scalings differed, in how many tensors of B a number was rounded and the largest relative change of one.
    """

    path: Path
    rank: int | None
    modules: int
    zeros: int = 0
    rounded: int = 0
    largest_change: float = 0.0


def write_padded(adapter: Path, out: Path, *, rank: int | None = None, over: Sequence[Path] = ()) -> Padded:
    """Write the adapter in the folder `adapter` into the new folder `out`: with neither `rank` nor `over` its files as
    they are, else its factors padded to `rank` (None: the largest of all) over its own modules and those of `over`.

    Every scaling·B·A stays. Raises as `plan_padded`, UnreadableError, DestinationError, NoSpaceError.
    """
    facts = read_adapter(adapter)
    names = _files_of(adapter)
    if rank is None and not over:
        with whole_folder(out, sum((adapter / name).stat().st_size for name in names)) as folder:
            _copy(adapter, names, folder)
        return Padded(out, facts.rank, len(facts.modules))
    draft = plan_padded(facts, rank=rank, over=[read_adapter(one) for one in over])
    others = [name for name in names if name not in (CONFIG_NAME, WEIGHTS_NAME)]
    needed = draft.size + facts.config.size + _CONFIG_ROOM + sum((adapter / name).stat().st_size for name in others)
    with whole_folder(out, needed) as folder:
        _copy(adapter, others, folder)
        done = apply_rewrites(RewritePlan(draft, (), ()), folder)
    made = draft.facts()
    zeros = len(made.modules) - len(facts.modules)
    return Padded(out, made.rank, len(made.modules), zeros, done.rounded, done.largest_change)


def _files_of(folder: Path) -> tuple[str, ...]:
    """The files that make a version of the adapter."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return select_files(path.relative_to(folder).as_posix() for path in paths).included


def _copy(source: Path, names: Iterable[str], target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with (
            opened(source / name, os.O_RDONLY) as origin,
            opened(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as place,
        ):
            copy_range(origin, 0, place, 0, os.fstat(origin).st_size, file=source / name)
