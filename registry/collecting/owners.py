"""Who holds something in the catalog: a process, told by a folder of this host that it keeps locked."""

from __future__ import annotations

import hashlib
import socket
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LONGEST_HOST = 100


def place_of(folder: Path) -> str:
    """A name for an existing folder, the same in every process that can meet its locks, and in no other.

    The host's name alone would not do: containers share names and paths, but neither folders nor locks.
    """
    host, known = socket.gethostname(), folder.stat()
    boot = ""
    with suppress(OSError):
        boot = _BOOT_ID.read_text().strip()
    seen = f"{host} {boot} {known.st_dev} {known.st_ino}"
    return f"{host[:_LONGEST_HOST]}:{hashlib.sha256(seen.encode()).hexdigest()[:16]}"


def owner_of(folder: Path) -> str:
    """Who holds a lease: the push that keeps this folder of the staging root locked for as long as it lives."""
    return f"{place_of(folder.parent)}/{folder.name}"


def folder_of(owner: str | None, root: Path) -> Path | None:
    """The folder of an owner in this staging root; None for the owners of other places."""
    place, _, name = (owner or "").rpartition("/")
    return root / name if name and place == place_of(root) else None
