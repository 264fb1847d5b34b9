"""Pushes version after version, each of other content; says each reference once the push has returned.

In one process and forked from a warm one, so that a cut falls into a push and not into an import.
"""

from registry import connections, disk, staging, transfer
from tests.registries import make_adapter, open_registry
from tests.registry.power.pushing import WithoutSync

SABOTAGE = ("no file fsync", "write-ahead log with NORMAL", "journal with FULL")


def publish(home, sources, count, sabotage, speaker):
    """Pushes until `count`, with one durability measure left out."""
    if sabotage == "no file fsync":
        transfer.os = staging.os = WithoutSync()
        disk.sync_folder = lambda folder: None
    elif sabotage:
        _weaken(sabotage)
    registry = open_registry(home)
    for number in range(1, count + 1):
        source = make_adapter(sources / str(number), number)
        result = registry.push(source, "team/sql", aliases=["prod"])
        speaker.write(f"{result.ref} {result.digest}\n")
        speaker.flush()


def _weaken(sabotage):
    module = connections
    kept = tuple(pragma for pragma in module._PRAGMAS if "synchronous" not in pragma)
    wal = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")
    module._PRAGMAS = kept + (wal if "NORMAL" in sabotage else ("PRAGMA synchronous = FULL",))
