"""What is finished of a plan: one line per tensor, appended when its bytes are written, believed when they hash to it.

A line says what a resumed run needs: digests and sums. It is not made durable, and no tensor is synced for it: after a
power cut a line may stand for bytes that are gone. So `finished` reads and hashes what every line names; that costs a
fraction of making it again, needs no waiting for the disk while it is made, and catches every other damage as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from engine.errors import HeaderError
from engine.materialize.stored.hashing import place_digest
from engine.materialize.tasks.wire import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.materialize.tasks.execute import Written
    from engine.materialize.tasks.task import Task

_SUM = 16
"""Hex digits before a line's text that tell a torn line."""


def begin(journal: Path, key: str) -> None:
    """A journal in which nothing is finished; `key` is what a run must have in common with it to go on."""
    journal.write_bytes(_line({"key": key}))


def note(descriptor: int, written: Written) -> None:
    """One more finished tensor, at the end of an open journal."""
    os.write(descriptor, _line(to_json(written)))


def finished(journal: Path, key: str, tasks: Sequence[Task], *, jobs: int | None) -> list[Written] | None:
    """What a run with this key finished and is still there, byte for byte; None where there is no such journal.

    A torn end is cut off, so that lines can follow.
    """
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return None
    lines = list(_lines(content))
    if not lines or lines[0][0] != {"key": key}:
        return None
    os.truncate(journal, lines[-1][1])
    noted: dict[str, Written] = {row["name"]: from_json(row) for row, _ in lines[1:]}
    pairs = [(task, noted[task.name]) for task in tasks if task.name in noted]
    with ThreadPoolExecutor(jobs) as pool:
        holds = pool.map(lambda pair: _holds(*pair), pairs)
        return [written for (_, written), there in zip(pairs, holds, strict=True) if there]


def _holds(task: Task, written: Written) -> bool:
    try:
        return {role: place_digest(part) for role, part in task.target.parts.items()} == written.digests
    except HeaderError:
        return False


def _line(row: object) -> bytes:
    text = json.dumps(row, ensure_ascii=False).encode()
    return hashlib.sha256(text).hexdigest()[:_SUM].encode() + b" " + text + b"\n"


def _lines(content: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """What every whole line says, with the place where it ends, up to the first that is torn."""
    end = 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        text = line[_SUM + 1 : -1]
        if line != hashlib.sha256(text).hexdigest()[:_SUM].encode() + b" " + text + b"\n":
            return
        yield json.loads(text), end
