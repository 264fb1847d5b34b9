"""Stores `count` blobs, or as many as the power lasts for; says each digest once the store has promised it."""

import os
import sys
import time
from pathlib import Path

from registry.files import disk, staging, transfer
from registry.store.folder import FolderStore


def main(home, count, sabotage):
    if sabotage == "no file fsync":
        transfer.os = staging.os = WithoutSync()
    if sabotage == "no folder fsync":
        disk.sync_folder = lambda folder: None
    store = FolderStore(home / "blobs", home / "staging")
    for _ in range(count):
        print(store.put_bytes(os.urandom(20_000)), flush=True)
    time.sleep(60)


class WithoutSync:
    """The os module, but that its fsync does nothing."""

    def __getattr__(self, name):
        return (lambda descriptor: None) if name in ("fsync", "fdatasync") else getattr(os, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
