"""What the crash tests kill: stages, places and checks out one version, saying aloud what it may be held to."""

import sys
from pathlib import Path

from registry.files import checkout
from registry.files.manifest import manifest_bytes
from registry.pulls.pulled import ensure_pulled
from registry.results import FileEntry
from registry.store.folder import FolderStore
from registry.values.digests import digest_of

CONTENTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000, "sub/notes.txt": b"notes"}


class OneThread:
    """Stands in for a pool: strace counts per thread, and the sweep needs one count."""

    def __init__(self, size):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, function, items):
        return [function(item) for item in items]


def entries():
    return [FileEntry(name, digest_of(content), len(content)) for name, content in CONTENTS.items()]


def store_at(home):
    return FolderStore(home / "blobs", home / "staging")


def main(home):
    checkout.ThreadPoolExecutor = OneThread
    store = store_at(home)
    with store.staging() as staging:
        staged = [staging.add(content, name=name) for name, content in CONTENTS.items()]
        store.place(*staged)
        print("stored", flush=True)
    content = manifest_bytes(entries())
    ensure_pulled(store, store.put_bytes(content), entries(), home / "pulled")
    print("pulled", flush=True)
    checkout.checkout_to(store, entries(), home / "mine")
    print("checked out", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
