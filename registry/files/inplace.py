"""A large file that is sent from where it lies, without a copy, and must stay what it was when it was hashed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import IntakeError
from registry.files.disk import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class InPlace:
    """Which file it was, and how it stood. A write changes its times, and what these miss (writes within one tick of
    the clock, through a mapping) the sums do not: nothing is taken whose sent bytes have not the sums made before.
    """

    path: Path
    device: int
    inode: int
    size: int
    modified: int  # ns
    changed: int  # ns

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of that file as it was; IntakeError where it is gone, another, or was touched since."""
        try:
            manager = reading(self.path)
            descriptor = manager.__enter__()
        except OSError:
            raise self.refusal() from None
        try:
            self.require(descriptor)
            yield descriptor
        finally:
            manager.__exit__(None, None, None)

    def require(self, descriptor: int) -> None:
        """IntakeError where it is not what it was."""
        if found(descriptor, self.path) != self:
            raise self.refusal()

    def refusal(self) -> IntakeError:
        """What to say of a file that changed."""
        return IntakeError(
            f"{self.path}: changed while it was pushed", hint="run the same command again when nothing writes to it"
        )


def found(descriptor: int, path: Path) -> InPlace:
    """How the open file stands now."""
    now = os.fstat(descriptor)
    return InPlace(path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
