"""Pushes version after version, each of other content; says each reference once the push has returned.

In one process and forked from a warm one, so that a cut falls into a push and not into an import.
"""

from registry.api import Registry
from registry.catalog import connections
from registry.files import disk, staging, transfer
from tests.factories import make_settings
from tests.registries import make_adapter
from tests.registry.power.pushing import WithoutSync

SABOTAGE = ("no file fsync", "no folder fsync", "write-ahead log with NORMAL", "journal with FULL")


def open_across(several):
    """A registry whose home is on the first disk and whose catalog is on the last."""
    home, catalog = several[0].place / "home", several[-1].place / "home" / "catalog.db"
    catalog.parent.mkdir(exist_ok=True)
    return Registry(make_settings(home, database_url=f"sqlite:///{catalog}", actor="tester"))


def publish(several, sources, count, sabotage, speaker):
    """Pushes until `count`, with one durability measure left out."""
    if "fsync" in sabotage:
        disk.sync_folder = lambda folder: None
        if sabotage == "no file fsync":
            transfer.os = staging.os = WithoutSync()
    elif sabotage:
        _weaken(sabotage)
    registry = open_across(several)
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
