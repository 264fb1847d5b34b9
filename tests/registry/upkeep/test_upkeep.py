"""verify, which, fsck, gc and doctor: each planted damage is found, and nothing alive is ever collected."""

import os
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, text, update

from engine.errors import HeaderError
from registry.api import Registry
from registry.catalog.schema import HEAD, SCHEMA
from registry.errors import CorruptError, IntakeError, NotFoundError, UnavailableError, UsageError
from registry.models import Alias, Blob, Document, File, Lease, Version
from tests.registries import factors, make_adapter


@pytest.fixture
def pushed(prepared):
    return prepared(push_two)


def push_two(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/sql", aliases=["prod"])
    registry.push(make_adapter(tmp_path / "b", seed=1), "team/sql")


def blob_path(registry, digest):
    return registry.settings.blobs / "sha256" / digest[7:9] / digest[7:]


def weights_of(registry, ref):
    return next(entry.sha256 for entry in registry.show(ref).files if entry.path.endswith(".safetensors"))


def ids(registry):
    return {finding.id for finding in registry.fsck().findings}


def change(registry, statement):
    registry._handle.database.write(lambda session: session.execute(statement).rowcount)


def test_verify_counts_what_it_hashed(pushed):
    result = pushed.verify("team/sql@1")
    sizes = [entry.size for entry in pushed.show("team/sql@1").files]

    assert (result.files, result.bytes, result.status) == (2, sum(sizes), "pass")


def test_which_finds_by_file_and_by_tensors(pushed, tmp_path):
    """The second file has another header, so other bytes, and the same tensors."""
    from safetensors.numpy import save_file

    save_file(dict(reversed(factors(1).items())), tmp_path / "other.safetensors", metadata={"made": "elsewhere"})

    assert [info.ref for info in pushed.which(tmp_path / "b" / "adapter_config.json")] == ["team/sql@2", "team/sql@1"]
    assert [info.ref for info in pushed.which(tmp_path / "other.safetensors")] == ["team/sql@2"]


def test_which_names_what_nobody_holds(pushed, tmp_path):
    (tmp_path / "x").write_text("x")

    with pytest.raises(NotFoundError, match="sha256:"):
        pushed.which(tmp_path / "x")
    with pytest.raises(IntakeError, match="nowhere"):
        pushed.which(tmp_path / "nowhere")


def test_fsck_of_a_whole_registry_finds_nothing(pushed):
    result = pushed.fsck()

    # 2 versions: config is shared, 2 weights, 2 manifests, 2 records
    assert (result.status, result.versions, result.blobs, result.findings) == ("pass", 2, 7, ())


def test_fsck_finds_wrong_and_missing_bytes(pushed):
    wrong, missing = (blob_path(pushed, weights_of(pushed, ref)) for ref in ("team/sql@1", "team/sql@2"))
    content = wrong.read_bytes()
    wrong.chmod(0o644)
    wrong.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    missing.unlink()
    manifest = blob_path(pushed, pushed.show("team/sql@1").digest)
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")

    result = pushed.fsck()

    assert result.status == "fail"
    assert {finding.id for finding in result.findings} == {"wrong-bytes", "missing-blob", "wrong-size"}


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        (update(Version).where(Version.number == 1).values(size=1), "wrong-version-size"),
        (update(Version).where(Version.number == 2).values(newest=False), "wrong-newest"),
        (update(File).where(File.role == "record").values(blob_digest=None), "file-without-blob"),
        (delete(Document).where(Document.kind == "config"), "missing-document"),
        (delete(File).where(File.role == "manifest"), "missing-manifest-row"),
        (update(File).where(File.path == "adapter_config.json").values(path="x.json"), "wrong-manifest"),
        (update(Blob).values(state="deleting"), "unfinished-deletion"),
        (update(Blob).values(state="deleting"), "needed-blob-deleted"),
        (update(Blob).values(state="condemned"), "needed-blob-condemned"),
    ],
)
def test_fsck_finds_each_planted_damage(pushed, statement, finding):
    change(pushed, statement)

    assert finding in ids(pushed)


def test_fsck_finds_an_alias_of_a_deleted_version(pushed):
    from sqlalchemy import func, select

    first = select(Version.id).where(Version.number == 1).scalar_subquery()
    change(pushed, update(Version).where(Version.number == 1).values(deleted_at=func.current_timestamp()))
    change(pushed, update(Alias).values(version_id=first))

    assert "dangling-alias" in ids(pushed)


def test_what_a_crash_leaves_is_info_and_gc_removes_it(pushed):
    """An orphan blob, a dead staging folder and a spent lease."""
    store = pushed._handle.store
    store.put_bytes(b"orphan")
    (pushed.settings.staging / "dead.tmp").mkdir()
    (pushed.settings.staging / "dead.tmp" / "x").write_text("x")
    spent = Lease(id="0" * 32, owner=None, expires_at=pushed.show("team/sql").created_at)
    pushed._handle.database.write(lambda session: session.add(spent))

    findings = pushed.fsck().findings
    result = pushed.gc(grace="0")

    assert {(finding.id, finding.severity) for finding in findings} == {
        ("orphan-blob", "info"),
        ("dead-staging", "info"),
        ("spent-lease", "info"),
    }
    assert (result.blobs, result.bytes, result.temporary) == (1, 6, 1)
    assert pushed.fsck().findings == ()


def test_gc_frees_a_deleted_version_after_its_grace_and_only_then(pushed):
    pushed.remove("team/sql@2")
    weights = weights_of(pushed, "team/sql@2")

    assert pushed.gc().blobs == 0
    assert pushed.undelete("team/sql@2").version == 2
    pushed.remove("team/sql@2")
    assert pushed.gc(grace="0", dry_run=True).removed == (weights,)
    assert blob_path(pushed, weights).exists()
    freed = pushed.gc(grace="0")
    assert (freed.removed, freed.versions) == ((weights,), 1)
    assert not blob_path(pushed, weights).exists()
    with pytest.raises(NotFoundError, match="freed"):
        pushed.undelete("team/sql@2")
    with pytest.raises(NotFoundError):
        pushed.pull("team/sql@2")
    assert pushed.fsck().findings == ()


def test_gc_keeps_a_blob_that_another_version_shares(pushed):
    config = next(entry.sha256 for entry in pushed.show("team/sql@2").files if entry.path == "adapter_config.json")
    pushed.remove("team/sql@2")
    pushed.gc(grace="0")

    assert blob_path(pushed, config).exists()
    assert pushed.verify("team/sql@1").status == "pass"


def test_content_that_gc_freed_can_be_pushed_again_under_its_number(pushed, tmp_path):
    pushed.remove("team/sql@2")
    pushed.gc(grace="0")
    result = pushed.push(tmp_path / "b", "team/sql")

    assert (result.version, result.created) == (2, False)
    assert pushed.verify("team/sql@2").status == "pass"
    assert pushed.fsck().findings == ()


def test_gc_spares_what_a_running_lease_names(pushed):
    from datetime import timedelta

    from registry.catalog import leases

    store = pushed._handle.store
    digest = store.put_bytes(b"on its way in")
    lease = pushed._handle.database.write(
        lambda s: leases.acquire(s, [digest], timedelta(hours=1), owner="elsewhere:/x")
    )

    assert pushed.gc(grace="0").blobs == 0
    assert ids(pushed) == {"orphan-blob", "running-lease"}
    pushed._handle.database.write(lambda session: leases.release(session, lease))
    assert pushed.gc(grace="0").removed == (digest,)


def test_gc_finishes_what_an_interrupted_gc_began(pushed):
    pushed.remove("team/sql@2")
    weights = weights_of(pushed, "team/sql@2")
    change(pushed, update(File).where(File.sha256 == weights).values(blob_digest=None))
    change(pushed, update(Version).where(Version.number == 2).values(freed_at=pushed.show("team/sql@1").created_at))
    change(pushed, update(Blob).where(Blob.digest == weights).values(state="deleting"))
    blob_path(pushed, weights).unlink()

    assert pushed.gc(grace="0").removed == (weights,)
    assert pushed.fsck().findings == ()


def test_a_push_ends_what_a_dead_gc_was_deleting(pushed, tmp_path):
    """P4: the retry must not wait for a person to run gc."""
    pushed.remove("team/sql@2")
    weights = weights_of(pushed, "team/sql@2")
    change(pushed, update(File).where(File.sha256 == weights).values(blob_digest=None))
    change(pushed, update(Version).where(Version.number == 2).values(freed_at=pushed.show("team/sql@1").created_at))
    change(pushed, update(Blob).where(Blob.digest == weights).values(state="deleting"))

    assert pushed.push(tmp_path / "b", "team/sql").version == 2
    assert pushed.verify("team/sql@2").status == "pass"
    assert pushed.fsck().findings == ()


def test_a_row_without_its_blob_is_an_error_and_nothing_that_gc_acts_on(pushed):
    weights = weights_of(pushed, "team/sql@2")
    blob_path(pushed, weights).unlink()

    result = pushed.gc(grace="0")

    assert (result.blobs, result.versions, result.removed) == (0, 0, ())
    finding = next(found for found in pushed.fsck().findings if found.id == "missing-blob")
    assert (finding.severity, finding.subject) == ("error", weights)
    assert pushed.show("team/sql@2").version == 2


def test_gc_leaves_rows_alone_that_a_version_names_whatever_damage_made_of_them(pushed):
    change(pushed, update(Blob).values(state="deleting"))

    result = pushed.gc(grace="0")

    assert (result.blobs, result.kept) == (0, {"another run is deleting them, or died over them": 7})
    assert pushed.verify("team/sql@1").status == "pass"


def test_gc_leaves_what_a_run_on_another_host_is_deleting(pushed):
    """A minute is enough for that run, and it may live."""
    digest = pushed._handle.store.put_bytes(b"going")
    claimed = {
        "state": "deleting",
        "deleting_by": "elsewhere:1/run",
        "deleting_until": datetime(2090, 1, 1, tzinfo=UTC),
    }
    change(pushed, insert(Blob).values(digest=digest, size=5, **claimed))

    assert pushed.gc(grace="0", dry_run=True).blobs == 0
    assert pushed.gc(grace="0").blobs == 0
    assert pushed._handle.store.exists(digest)
    change(pushed, update(Blob).where(Blob.digest == digest).values(deleting_until=None))
    assert pushed.gc(grace="0", dry_run=True).removed == (digest,)
    assert pushed.gc(grace="0").removed == (digest,)


def test_gc_tells_a_thousand_digests_and_counts_the_rest(pushed, monkeypatch):
    from registry.collecting import claims, forecast, gc

    monkeypatch.setattr(gc, "SAMPLE", 3)
    monkeypatch.setattr(forecast, "SAMPLE", 3)
    monkeypatch.setattr(claims, "BATCH", 2)
    digests = sorted(pushed._handle.store.put_bytes(bytes([n])) for n in range(7))

    told = pushed.gc(grace="0", dry_run=True)
    done = pushed.gc(grace="0")

    assert (told.blobs, told.bytes, told.removed) == (7, 7, tuple(digests[:3]))
    assert (done.blobs, done.bytes, done.removed) == (7, 7, tuple(digests[:3]))
    assert pushed.fsck().findings == ()


def test_gc_refuses_a_grace_that_is_no_duration(pushed):
    with pytest.raises(UsageError, match="soon"):
        pushed.gc(grace="soon")


def test_doctor_tells_where_things_are_and_what_is_missing(pushed):
    status = pushed.doctor()
    checks = {check["name"]: check for check in status.checks}

    assert str(pushed.settings.blobs) == status.store
    assert checks["catalog"]["detail"] == "1 adapters, 2 versions, 7 blobs"
    assert {check["status"] for check in status.checks} == {"ok"}
    assert os.fspath(pushed.settings.home) in checks["space"]["detail"]


def test_verify_names_the_blob_that_is_missing(pushed):
    digest = weights_of(pushed, "team/sql@1")
    blob_path(pushed, digest).unlink()

    with pytest.raises(CorruptError, match=digest[7:20]):
        pushed.verify("team/sql@1")


def test_which_refuses_a_cut_safetensors_file(pushed, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "a" / "adapter_model.safetensors").read_bytes()[:100])
    with pytest.raises(HeaderError):
        pushed.which(cut)


def test_a_store_that_is_gone_is_not_reachable_rather_than_damaged(pushed):
    pushed.settings.blobs.rename(pushed.settings.blobs.with_name("elsewhere"))
    with pytest.raises(UnavailableError, match="no blob store"):
        pushed.fsck()


def test_a_freed_version_says_how_it_comes_back(pushed):
    pushed.remove("team/sql@2")
    pushed.gc(grace="0")
    with pytest.raises(NotFoundError, match="gc freed its files") as refusal:
        pushed.pull("team/sql@2")

    assert "push" in refusal.value.hint


def test_verify_of_a_freed_version_names_it(pushed):
    pushed.remove("team/sql@2")
    pushed.gc(grace="0")

    with pytest.raises(NotFoundError, match=r"^team/sql@2: gc freed its files"):
        pushed.verify("team/sql@2")


def test_which_finds_a_deleted_version_and_says_so_until_gc_frees_it(pushed, tmp_path):
    pushed.remove("team/sql@2")

    found = pushed.which(tmp_path / "b" / "adapter_config.json")
    assert [(info.ref, info.deleted) for info in found] == [("team/sql@1", False), ("team/sql@2", True)]
    assert [info.ref for info in pushed.which(tmp_path / "b" / "adapter_model.safetensors")] == ["team/sql@2"]

    pushed.gc(grace="0")
    with pytest.raises(NotFoundError):
        pushed.which(tmp_path / "b" / "adapter_model.safetensors")


def test_doctor_tells_the_rest_where_the_database_cannot_be_used(pushed):
    """A schema that only newer clients may use: both revisions are named, the other checks are still made."""
    change(pushed, text("UPDATE catalog_meta SET value = '99' WHERE key IN ('schema', 'oldest_client')"))
    change(pushed, text("UPDATE alembic_version SET version_num = '0099'"))
    again = Registry.open(settings=pushed.settings)

    status = again.doctor()
    again.close()
    checks = {check["name"]: check for check in status.checks}

    assert checks["database"]["status"] == "fail"
    assert "schema 0099 (99)" in checks["database"]["detail"]
    assert f"up to {HEAD} ({SCHEMA})" in checks["database"]["detail"]
    assert {"store", "space", "python", "extras"} <= checks.keys()
    assert status.revision is None


def test_init_migrate_and_doctor_tell_where_the_registry_is(pushed):
    """As places, which a script can open: no words before them."""
    home = pushed.settings.home

    for status in (pushed.init(), pushed.migrate(), pushed.doctor()):
        assert status.database.startswith((f"{home}/catalog.db", "postgresql://"))
        assert status.store == f"{home}/blobs"


def test_which_is_told_to_a_person_as_deleted(pushed, tmp_path, capfd):
    from registry.cli.failure import run

    pushed.remove("team/sql@2")
    code = run(["which", str(tmp_path / "b" / "adapter_model.safetensors")], opener=lambda settings: pushed)

    assert code == 0
    assert "team/sql@2 (deleted)" in capfd.readouterr().out
