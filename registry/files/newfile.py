"""One file for the caller: it gets its name when it is whole and durable, and in the place of no other by accident."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.errors import ConflictError
from registry.files.disk import READ, opened, reaching, sync_folder
from registry.files.scratch import scratch_beside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def new_file(to: Path, *, force: bool = False, command: str | None = None) -> Iterator[Path]:
    """A temporary path beside `to`: the file that the block makes there becomes `to` when the block ends well.

    ConflictError where something is at `to`, or comes there meanwhile; with `force` for a folder alone. `command` is
    the one whose --force a hint names; None where it has no such option.
    """
    hint = "name a file that does not exist" if command is None else f"adapters {command} --force replaces a file"
    taken = ConflictError(f"{to} exists already", hint=hint)
    if os.path.lexists(to) and (not force or to.is_dir()):
        raise taken
    with reaching(to.parent), scratch_beside(to) as folder:
        temporary = folder / "whole"
        yield temporary
        with opened(temporary, READ) as descriptor:
            os.fsync(descriptor)
        if force:
            temporary.replace(to)
        else:
            try:
                to.hardlink_to(temporary)  # unlike a rename, never over what came there meanwhile
            except FileExistsError:
                raise taken from None
        sync_folder(to.parent)
