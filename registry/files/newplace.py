"""Where a caller wants a new folder: a place of this machine, outside of what the registry keeps for itself."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST, _LONGEST_PATH = 255, 4095


def new_place(to: str | Path, kept: Iterable[Path]) -> Path:
    """The absolute path, without dots, `~` expanded. UsageError for what can be no folder, and below one of `kept`:
    there gc and prune take away what they do not know, and whatever is in the place of a blob would be one.
    """
    if _URL.match(str(to)) or "\0" in str(to):
        raise UsageError(f"{str(to)[:120]!r}: expected a folder of this machine")
    try:
        place = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100 (Path.absolute keeps `..`)
    except RuntimeError as error:  # no such user
        raise UsageError(f"{str(to)[:120]!r}: {error}") from None
    if any(len(os.fsencode(part)) > _LONGEST for part in place.parts):
        raise UsageError(f"{place}: has a name longer than {_LONGEST} bytes")
    if len(os.fsencode(place)) > _LONGEST_PATH:
        raise UsageError(f"{str(place)[:120]}…: is longer than {_LONGEST_PATH} bytes")
    real = Path(os.path.realpath(place))
    for folder in kept:
        root = Path(os.path.realpath(folder))
        if root in (real, *real.parents):
            raise UsageError(f"{place} is inside the registry's own folder {root}", hint="name a folder outside of it")
    return place
