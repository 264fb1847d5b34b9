"""An output folder that is there whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import DestinationError, DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def fresh_folder(out: Path) -> Iterator[None]:
    """Make the folder for the files of one adapter; with an error it is gone again, with what was written.

    Raises DestinationError where something is there already, DiskError where it cannot be written.
    """
    existed = out.exists()
    if existed and (not out.is_dir() or any(out.iterdir())):
        raise DestinationError(out, "exists; give the name of a new folder")
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(out, error.strerror or str(error)) from error
    try:
        yield
    except BaseException as error:
        for path in out.iterdir():
            path.unlink()
        if not existed:
            out.rmdir()
        if isinstance(error, OSError):
            raise DiskError(out, error.strerror or str(error)) from error
        raise
