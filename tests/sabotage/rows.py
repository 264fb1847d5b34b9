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
        "registry/catalog/database.py",
        'self._begun("IMMEDIATE" if',
        'self._begun("DEFERRED" if',
        f"{REGISTRY}/catalog/test_database.py",
        "writer",
    ),
    Sabotage(
        "synchronous NORMAL",
        "registry/catalog/connections.py",
        "synchronous = EXTRA",
        "synchronous = NORMAL",
        f"{REGISTRY}/catalog/test_database.py",
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
        "registry/versions/publish.py",
        "max(adapter.last_number + 1, number)",
        "(session.scalar(select(Version.number).where(Version.adapter_id == adapter.id, Version.deleted_at.is_(None))"
        ".order_by(Version.number.desc()).limit(1)) or 0) + 1",
        f"{REGISTRY}/versions/test_publish.py",
        "sqlite",
    ),
    Sabotage(
        "an alias moves whatever was expected",
        "registry/versions/aliases.py",
        "_compare(session, adapter, alias, before, expect)",
        "pass",
        f"{REGISTRY}/versions/test_aliases.py",
        "sqlite",
    ),
    Sabotage(
        "files are not waited for",
        "registry/store/folder.py",
        "            file.settle()",
        "            pass",
        f"{REGISTRY}/store/test_blobs.py {REGISTRY}/store/test_blob_outages.py",
        "",
    ),
    Sabotage(
        "folders are not synced",
        "registry/files/disk.py",
        "def sync_folder(folder: Path) -> None:",
        "def sync_folder(folder: Path) -> None:\n    return\n\n\ndef _unused(folder: Path) -> None:",
        f"{REGISTRY}/store/test_blobs.py {REGISTRY}/store/test_blob_crashes.py {REGISTRY}/power "
        "tests/e2e/test_push_crashes.py",
        "not s3",
    ),
    Sabotage(
        "read bytes are not compared",
        "registry/store/folder.py",
        "        if actual != digest:",
        "        if False:",
        f"{REGISTRY}/store/test_blobs.py",
        "not s3",
    ),
    Sabotage(
        "pulled bytes are not compared",
        "registry/files/checkout.py",
        "        if digest != entry.sha256:",
        "        if False:",
        f"{REGISTRY}/pulls/test_pulled.py {REGISTRY}/files/test_checkout.py",
        "",
    ),
    Sabotage(
        "an object's existence is believed",
        "registry/store/bucket/objects.py",
        "if holds(self.bucket, key, file, stop) or",
        "if self.exists(file.digest) or",
        f"{REGISTRY}/store/test_blobs.py {REGISTRY}/store/bucket/test_objects.py",
        "s3 or objects",
    ),
    Sabotage(
        "a store is believed to compare sums",
        "registry/store/bucket/checkedparts.py",
        "        if upload.compares():",
        "        if True:",
        f"{REGISTRY}/store/bucket/test_checkedparts.py",
        "does_not_compare",
    ),
    Sabotage(
        "weights may change between the sums and the look at them",
        "registry/files/inplace.py",
        "            self.require(descriptor)",
        "            pass",
        f"{REGISTRY}/files/test_inplace.py",
        "touched",
    ),
    Sabotage(
        "a push that nobody waits for sends its weights to the end",
        "registry/store/bucket/objects.py",
        "                stop.set()",
        "                pass",
        f"{REGISTRY}/store/bucket/test_checkedparts.py",
        "ends_this_one",
    ),
    Sabotage(
        "gc has no grace",
        "registry/collecting/gc.py",
        "expired(now(session) - grace)",
        "expired(now(session))",
        f"{REGISTRY}/upkeep/test_upkeep.py {REGISTRY}/collecting/test_claims.py",
        "sqlite",
    ),
    Sabotage(
        "a serialization failure is not run again",
        "registry/catalog/faults.py",
        'frozenset({"40001", "40P01", "55P03"})',
        'frozenset({"40P01", "55P03"})',
        f"{REGISTRY}/catalog/test_database.py",
        "serialization",
    ),
    Sabotage(
        "a commit without an answer is run again",
        "registry/catalog/faults.py",
        'state is None or state.startswith(("08", "57P"))',
        "False",
        f"{REGISTRY}/catalog/test_database.py",
        "answer_was_lost",
    ),
    Sabotage(
        "headers have no limit",
        "engine/format/files/header.py",
        "    if length > MAX_HEADER:",
        "    if False:",
        "tests/engine/format/files/test_header_verdicts.py",
        "",
    ),
    Sabotage(
        "expressions have no time limit",
        "engine/format/configs/patterns.py",
        ", timeout=max(self._left, _SHORTEST)",
        "",
        "tests/engine/format/configs/test_patterns.py --timeout 30",
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
        "registry/files/disk.py",
        "READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK",
        "READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK",
        f"{REGISTRY}/files/test_intake.py {REGISTRY}/store/test_blobs.py",
        "not s3",
    ),
    Sabotage(
        "names are printed raw",
        "registry/cli/shown/text.py",
        "    if text.isprintable():",
        "    if True:",
        f"{REGISTRY}/cli",
        "",
    ),
    Sabotage(
        "a lost lease still publishes",
        "registry/versions/publish.py",
        "leases.require(session, draft.lease)",
        "pass",
        f"{REGISTRY}/versions/test_publish.py {REGISTRY}/catalog/test_leases.py",
        "sqlite",
    ),
    Sabotage(
        "a condemned blob is not brought back",
        "registry/catalog/leases.py",
        '.values(state="live", condemned_at=None)',
        ".values(condemned_at=None)",
        f"{REGISTRY}/catalog/test_leases.py {REGISTRY}/versions/test_publish.py",
        "sqlite",
    ),
    Sabotage(
        "a pin is not compared",
        "registry/versions/resolve.py",
        "if ref.digest is not None and not version.digest",
        "if ref.digest is None and not version.digest",
        f"{REGISTRY}/versions/test_resolve.py",
        "sqlite",
    ),
    Sabotage(
        "an alias may name what is deleted",
        "registry/versions/removal.py",
        "    if aliases:",
        "    if False:",
        f"{REGISTRY}/versions/test_removal.py",
        "sqlite",
    ),
    Sabotage(
        "a newer schema is used",
        "registry/catalog/schema.py",
        "if oldest_client > SCHEMA",
        "if False",
        f"{REGISTRY}/catalog/test_schema.py",
        "sqlite",
    ),
)
