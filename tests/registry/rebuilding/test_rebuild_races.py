"""What goes on beside a rebuild: blobs that go between its look and its lease, pushes, and other rebuilds."""

import threading
from contextlib import nullcontext
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from registry.errors import LeaseLostError
from registry.models import AuditEntry, File, Lease, LeaseBlob, Version
from registry.rebuilding import rebuild
from tests.registries import make_adapter, make_base
from tests.registry.rebuilding.test_rebuild import everything, findings, lineage, lose_catalog, rows


@pytest.fixture
def grown(registry, tmp_path):
    """A version of a known base whose second record tells an edge to another."""
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "a", 1), "team/a")
    (make_adapter(tmp_path / "b", 2) / "README.md").write_text("of the second")
    registry.push(tmp_path / "b", "team/b")
    registry.push(tmp_path / "b", "team/b", parents=["team/a"])
    return registry


def digest_of(registry, path, name="b"):
    """The blob of a row of team/b@1."""
    version = select(Version.id).where(Version.digest == registry.show(f"team/{name}@1").digest).scalar_subquery()
    return rows(registry, select(File.blob_digest).where(File.version_id == version, File.path == path))[0][0]


def before_the_lease(monkeypatch, work):
    """Do something once, when the scan is over and no lease is taken yet."""
    real, done = rebuild.protected, []

    def late(handle, folder, digests):
        if not done:
            done.append(work())
        return real(handle, folder, digests)

    monkeypatch.setattr(rebuild, "protected", late)


@pytest.mark.parametrize("path", ["/manifest", "/record/1"])
def test_a_version_whose_record_or_manifest_just_went_is_named_and_keeps_its_number(grown, tmp_path, monkeypatch, path):
    gone = digest_of(grown, path)
    lose_catalog(grown)
    before_the_lease(monkeypatch, lambda: grown._handle.store.delete(gone))

    result = grown.fsck(rebuild=True)

    assert result.made == ("team/a@1",)
    assert findings(result) == {("lost-version", "team/b@1")}
    assert grown.push(make_adapter(tmp_path / "c", 3), "team/b").ref == "team/b@2"


def test_an_older_record_or_a_bases_facts_that_just_went_get_no_row(grown, monkeypatch):
    """P3: no row names a blob that is not there."""
    gone = [digest_of(grown, path) for path in ("/record", "/base")]
    lose_catalog(grown)
    before_the_lease(monkeypatch, lambda: [grown._handle.store.delete(digest) for digest in gone])

    result = grown.fsck(rebuild=True)

    assert sorted(result.made) == ["team/a@1", "team/b@1"]
    assert [rule for rule, _ in findings(result)] == ["lost-enclosure"]  # read once for both versions
    assert not {one.id for one in result.findings} & {"missing-blob", "file-without-blob"}
    assert lineage(grown)[0][:5] == ("b", 1, "finetuned_from", "a", 1)


def test_all_that_a_version_needs_is_leased_before_a_byte_is_read(grown, monkeypatch):
    wanted = {blob.digest for blob in grown._handle.store.list()}
    lose_catalog(grown)
    store, seen = type(grown._handle.store), []
    copy = store.copy_to

    def looking(self, digest, destination, **options):
        query = select(LeaseBlob.digest).join(Lease, Lease.id == LeaseBlob.lease_id)
        seen.append({found for (found,) in rows(grown, query)})
        return copy(self, digest, destination, **options)

    monkeypatch.setattr(store, "copy_to", looking)
    grown.fsck(rebuild=True)

    assert seen == [wanted] * 5  # two files of the one, three of the other
    assert rows(grown, select(Lease.id)) == []


def test_a_rebuild_whose_lease_ran_out_makes_nothing(grown, monkeypatch):
    lose_catalog(grown)
    monkeypatch.setattr("registry.collecting.protection.LEASE", timedelta(0))
    monkeypatch.setattr("registry.collecting.protection._beating", lambda *_: nullcontext())
    with pytest.raises(LeaseLostError):
        grown.fsck(rebuild=True)

    assert rows(grown, select(Version.id)) == []


def test_a_push_that_takes_the_number_while_files_are_read_keeps_it(grown, tmp_path, monkeypatch):
    """Rows are never overwritten; what the record says is told by the next rebuild."""
    lose_catalog(grown)
    make_adapter(tmp_path / "late", 9)
    before_the_lease(monkeypatch, lambda: grown.push(tmp_path / "late", "team/b"))
    late = []
    real = rebuild.restore

    def told(session, plan, **options):
        late.append(plan.kept.best.record.name)
        return real(session, plan, **options)

    monkeypatch.setattr(rebuild, "restore", told)
    grown.fsck(rebuild=True)

    assert sorted(late) == ["team/a", "team/b"]
    assert [one.path for one in grown.show("team/b@1").files] == ["adapter_config.json", "adapter_model.safetensors"]
    numbers = rows(grown, select(Version.number, Version.digest).order_by(Version.id))
    assert sorted(number for number, _ in numbers) == [1, 1]
    assert (
        grown.pull("team/b@1").joinpath("adapter_model.safetensors").read_bytes()
        == (tmp_path / "late" / "adapter_model.safetensors").read_bytes()
    )
    assert ("record-disagrees", "team/b@1") in findings(grown.fsck(rebuild=True))


def test_two_rebuilds_beside_each_other_make_each_version_once(grown, monkeypatch):
    before = everything(grown)
    lose_catalog(grown)
    meet = threading.Barrier(2, timeout=60)
    real = rebuild.protected

    def together(handle, folder, digests):
        meet.wait()
        return real(handle, folder, digests)

    monkeypatch.setattr(rebuild, "protected", together)
    done = []
    threads = [threading.Thread(target=lambda: done.append(grown.fsck(rebuild=True).status)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done == ["pass", "pass"]
    after = everything(grown)
    assert (after["versions"], after["edges"], after["files"]) == (before["versions"], before["edges"], before["files"])


def test_a_rebuild_says_in_the_audit_what_it_made(grown):
    lose_catalog(grown)
    grown.fsck(rebuild=True)
    grown.fsck(rebuild=True)

    said = select(AuditEntry.subject, func.count()).where(AuditEntry.action == "rebuild").group_by(AuditEntry.subject)
    assert sorted(rows(grown, said)) == [("catalog", 2), ("team/a@1", 1), ("team/b@1", 1)]
