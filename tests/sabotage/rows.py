"""Defects that somebody could make, each with the tests that must see it."""

from typing import NamedTuple


class Sabotage(NamedTuple):
    """`wrong` in place of `right`, once, in `file`; `tests` and `chosen` (pytest's -k) must then fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
    chosen: str


REGISTRY = "tests/registry"
ROWS = (
    Sabotage(
        "writers begin deferred",
        "registry/database.py",
        'self._begun("IMMEDIATE" if',
        'self._begun("DEFERRED" if',
        f"{REGISTRY}/test_database.py",
        "writer",
    ),
    Sabotage(
        "synchronous NORMAL",
        "registry/connections.py",
        "synchronous = EXTRA",
        "synchronous = NORMAL",
        f"{REGISTRY}/test_database.py",
        "set_up or pragma or synchronous",
    ),
    Sabotage(
        "no unique number",
        "migrations/versions/20261122_0001_initial.py",
        'sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_versions_adapter_id_number")),',
        "",
        f"{REGISTRY}/test_models.py tests/migrations",
        "",
    ),
    Sabotage(
        "a number is given twice",
        "registry/publish.py",
        "max(adapter.last_number + 1, number)",
        "(session.scalar(select(Version.number).where(Version.adapter_id == adapter.id, Version.deleted_at.is_(None))"
        ".order_by(Version.number.desc()).limit(1)) or 0) + 1",
        f"{REGISTRY}/test_publish.py",
        "sqlite",
    ),
    Sabotage(
        "an alias moves whatever was expected",
        "registry/aliases.py",
        "_compare(session, adapter, alias, before, expect)",
        "pass",
        f"{REGISTRY}/test_aliases.py",
        "sqlite",
    ),
    Sabotage(
        "files are not waited for",
        "registry/folder.py",
        "            file.settle()",
        "            pass",
        f"{REGISTRY}/test_blobs.py {REGISTRY}/test_blob_outages.py",
        "",
    ),
    Sabotage(
        "folders are not synced",
        "registry/disk.py",
        "def sync_folder(folder: Path) -> None:",
        "def sync_folder(folder: Path) -> None:\n    return\n\n\ndef _unused(folder: Path) -> None:",
        f"{REGISTRY}/test_blobs.py {REGISTRY}/test_blob_crashes.py {REGISTRY}/power tests/e2e/test_push_crashes.py",
        "not s3",
    ),
    Sabotage(
        "read bytes are not compared",
        "registry/folder.py",
        "        if actual != digest:",
        "        if False:",
        f"{REGISTRY}/test_blobs.py",
        "not s3",
    ),
    Sabotage(
        "pulled bytes are not compared",
        "registry/checkout.py",
        "        if digest != entry.sha256:",
        "        if False:",
        f"{REGISTRY}/test_pulled.py {REGISTRY}/test_checkout.py",
        "",
    ),
    Sabotage(
        "an object's existence is believed",
        "registry/objects.py",
        "if holds(self.bucket, key, file, stop) or",
        "if self.exists(file.digest) or",
        f"{REGISTRY}/test_blobs.py {REGISTRY}/test_objects.py",
        "s3 or objects",
    ),
    Sabotage(
        "a store is believed to compare sums",
        "registry/checkedparts.py",
        "        if upload.compares():",
        "        if True:",
        f"{REGISTRY}/test_checkedparts.py",
        "does_not_compare",
    ),
    Sabotage(
        "weights may change between the sums and the look at them",
        "registry/inplace.py",
        "            self.require(descriptor)",
        "            pass",
        f"{REGISTRY}/test_inplace.py",
        "touched",
    ),
    Sabotage(
        "a push that nobody waits for sends its weights to the end",
        "registry/objects.py",
        "                stop.set()",
        "                pass",
        f"{REGISTRY}/test_checkedparts.py",
        "ends_this_one",
    ),
    Sabotage(
        "gc has no grace",
        "registry/gc.py",
        "expired(now(session) - grace)",
        "expired(now(session))",
        f"{REGISTRY}/test_upkeep.py {REGISTRY}/test_claims.py",
        "sqlite",
    ),
    Sabotage(
        "a serialization failure is not run again",
        "registry/faults.py",
        'frozenset({"40001", "40P01", "55P03"})',
        'frozenset({"40P01", "55P03"})',
        f"{REGISTRY}/test_database.py",
        "serialization",
    ),
    Sabotage(
        "a commit without an answer is run again",
        "registry/faults.py",
        'state is None or state.startswith(("08", "57P"))',
        "False",
        f"{REGISTRY}/test_database.py",
        "answer_was_lost",
    ),
    Sabotage(
        "headers have no limit",
        "engine/format/header.py",
        "    if length > MAX_HEADER:",
        "    if False:",
        "tests/engine/format/test_header_verdicts.py",
        "",
    ),
    Sabotage(
        "expressions have no time limit",
        "engine/format/patterns.py",
        ", timeout=max(self._left, _SHORTEST)",
        "",
        "tests/engine/format/test_patterns.py --timeout 30",
        "",
    ),
    Sabotage(
        "pickles may load anything",
        "engine/convert/child.py",
        'torch.load(source, map_location="cpu", weights_only=True',
        'torch.load(source, map_location="cpu", weights_only=False',
        "tests/engine/convert",
        "",
    ),
    Sabotage(
        "links are followed on push",
        "registry/disk.py",
        "READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK",
        "READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK",
        f"{REGISTRY}/test_intake.py {REGISTRY}/test_blobs.py",
        "not s3",
    ),
    Sabotage(
        "names are printed raw",
        "registry/cli/text.py",
        "    if text.isprintable():",
        "    if True:",
        f"{REGISTRY}/cli",
        "",
    ),
    Sabotage(
        "a lost lease still publishes",
        "registry/publish.py",
        "leases.require(session, draft.lease)",
        "pass",
        f"{REGISTRY}/test_publish.py {REGISTRY}/test_leases.py",
        "sqlite",
    ),
    Sabotage(
        "a condemned blob is not brought back",
        "registry/leases.py",
        '.values(state="live", condemned_at=None)',
        ".values(condemned_at=None)",
        f"{REGISTRY}/test_leases.py {REGISTRY}/test_publish.py",
        "sqlite",
    ),
    Sabotage(
        "a pin is not compared",
        "registry/resolve.py",
        "if ref.digest is not None and not version.digest",
        "if ref.digest is None and not version.digest",
        f"{REGISTRY}/test_resolve.py",
        "sqlite",
    ),
    Sabotage(
        "an alias may name what is deleted",
        "registry/removal.py",
        "    if aliases:",
        "    if False:",
        f"{REGISTRY}/test_removal.py",
        "sqlite",
    ),
    Sabotage(
        "a newer schema is used",
        "registry/schema.py",
        "if oldest_client > SCHEMA",
        "if False",
        f"{REGISTRY}/test_schema.py",
        "sqlite",
    ),
)
