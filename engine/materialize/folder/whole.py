"""An output that is at its place whole and durable, or not at all, whenever its maker is killed."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import DestinationError, DiskError, NoSpaceError
from engine.materialize.stored.files import sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole_folder(out: Path, needed: int) -> Iterator[Path]:
    """An empty folder beside `out` to fill; at the end its files are on the disk and it bears the name `out`.

    Raises DestinationError where something is at `out`, DiskError where it cannot be written, NoSpaceError where there
    is less room than `needed` bytes. With any error nothing is left; a kill leaves a `.NAME.*.tmp` beside `out`.
    """
    with _beside(out, needed) as temporary:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in (*names, "."):
                sync(temporary / folder / name)
        _refuse_taken(out)  # the rename itself would replace an empty folder
        temporary.rename(out)
        sync(out.parent)


@contextmanager
def whole_file(out: Path, needed: int) -> Iterator[Path]:
    """The path beside `out` of a file to make; at the end it is on the disk under the name `out`. As `whole_folder`."""
    with _beside(out, needed) as temporary:
        yield temporary
        sync(temporary)
        os.link(temporary, out)  # a rename would replace what came there meanwhile
        temporary.unlink()
        sync(out.parent)


@contextmanager
def _beside(out: Path, needed: int) -> Iterator[Path]:
    temporary = out.with_name(f".{out.name[:_NAME]}.{secrets.token_hex(8)}.tmp")
    try:
        _refuse_taken(out)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise NoSpaceError(out, needed=needed, free=free)
        yield temporary
    except FileExistsError as error:
        raise DestinationError(out, _TAKEN) from error
    except OSError as error:
        raise DiskError(out, error.strerror or str(error)) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


_TAKEN = "exists; give a name that is free"
_NAME = 50
"""Letters of the name that the temporary one repeats: no more bytes than a file system takes."""


def _refuse_taken(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise DestinationError(out, _TAKEN)
