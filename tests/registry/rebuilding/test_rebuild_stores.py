"""fsck --rebuild over every store and database: who may go on with a bucket whose catalog is lost, and what gc spares."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, func, select

from registry.errors import ConflictError
from registry.models import AuditEntry, CatalogMeta, Lease
from tests.registries import make_adapter, make_base, open_registry
from tests.registry.rebuilding.test_rebuild import everything, lineage, lose_catalog, rows

MINE = CatalogMeta.key == "registry"
LATER = datetime(2090, 1, 1, tzinfo=UTC)


def lose_all(registry):
    """Like a new database: no rows, and no id of its own."""
    lose_catalog(registry)
    registry._handle.database.write(lambda session: session.execute(delete(CatalogMeta).where(MINE)).rowcount)
    if registry.settings.store_url is not None:
        registry._handle.store.bucket.claimed = False


def own_id(registry):
    return rows(registry, select(CatalogMeta.value).where(MINE))


@pytest.fixture
def grown(shared_registry, tmp_path):
    """Two versions with an edge between them, of a known base; the first was deleted and freed."""
    registry = shared_registry
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "one", 1), "team/sql")
    registry.push(make_adapter(tmp_path / "two", 2), "team/sql", parents=["team/sql@1"])
    registry.remove("team/sql@1")
    registry.gc(grace="0")
    return registry


def test_a_catalog_is_made_again_from_each_store(grown, tmp_path):
    before, edges = everything(grown), lineage(grown)
    lose_all(grown)

    result = grown.fsck(rebuild=True)

    assert (result.status, sorted(result.made)) == ("pass", ["team/sql@1", "team/sql@2"])
    assert everything(grown)["versions"] == before["versions"]
    assert (everything(grown)["files"], lineage(grown)) == (before["files"], edges)
    assert grown.verify("team/sql@2").files == 2
    assert grown.push(make_adapter(tmp_path / "three", 3), "team/sql").version == 3


def test_gc_of_a_catalog_that_was_lost_refuses_until_it_is_rebuilt(grown):
    blobs = [blob.digest for blob in grown._handle.store.list()]
    lose_all(grown)

    for dry_run in (True, False):
        with pytest.raises(ConflictError, match="nothing was ever written") as refusal:
            grown.gc(grace="0", dry_run=dry_run)
        assert refusal.value.hint.startswith("adapters fsck --rebuild")
    assert [blob.digest for blob in grown._handle.store.list()] == blobs
    grown.fsck(rebuild=True)

    assert grown.gc(grace="0").blobs == 0
    assert [blob.digest for blob in grown._handle.store.list()] == blobs


def test_gc_of_an_empty_catalog_with_an_empty_store_is_done(shared_registry):
    shared_registry.init()

    assert shared_registry.gc(grace="0").blobs == 0
    assert shared_registry.gc(grace="0", dry_run=True).blobs == 0


def test_a_rebuild_that_finds_no_record_lets_gc_go_on(registry):
    """Else what a first push left that was interrupted would stay for ever."""
    orphan = registry._handle.store.put_bytes(b"left over")
    with pytest.raises(ConflictError):
        registry.gc(grace="0")

    registry.fsck(rebuild=True)

    assert registry.gc(grace="0").removed == (orphan,)


def test_a_lease_alone_lets_gc_go_on_and_so_does_its_end(registry):
    """A first push that was killed leaves a lease and blobs; the gc that drops the lease may come before the grace ends."""
    orphan = registry._handle.store.put_bytes(b"left over")
    moment = registry._handle.database.write(lambda session: session.scalar(select(func.current_timestamp())))
    spent = Lease(id="0" * 32, owner=None, expires_at=moment)
    registry._handle.database.write(lambda session: session.add(spent))

    assert registry.gc().removed == ()
    assert rows(registry, select(Lease.id)) == []
    assert rows(registry, select(AuditEntry.action, AuditEntry.subject)) == [("gc", "leases")]
    assert registry.gc(grace="0").removed == (orphan,)


class TestOneBucket:
    """Whose id a catalog has after a rebuild."""

    @pytest.fixture
    def owner(self, tmp_path, s3_url):
        """The id of a bucket that holds one version; its catalog is another, at `tmp_path / "first"`."""
        with_bucket = open_registry(tmp_path / "first", store_url=s3_url)
        with_bucket.push(make_adapter(tmp_path / "one", 1), "team/sql")
        yield own_id(with_bucket)
        with_bucket.close()

    @pytest.fixture
    def other(self, tmp_path, database_url, s3_url, owner):
        """A catalog of its own on the same bucket."""
        registry = open_registry(tmp_path / "home", database_url, store_url=s3_url)
        yield registry
        registry.close()

    def test_a_new_catalog_becomes_the_owner(self, other, owner):
        result = other.fsck(rebuild=True)

        assert (result.status, result.made) == ("pass", ("team/sql@1",))
        assert own_id(other) == owner

    def test_so_does_one_that_made_itself_an_id_before(self, other, owner):
        with pytest.raises(ConflictError, match="belongs to registry") as refusal:
            other.init()
        assert "adapters fsck --rebuild" in refusal.value.hint
        assert own_id(other) != owner

        assert other.fsck(rebuild=True).made == ("team/sql@1",)

        assert own_id(other) == owner
        assert other.init().store == other._handle.store.label

    def test_doctor_names_the_command_and_changes_nothing(self, other, owner):
        told = {check["name"]: check for check in other.doctor().checks}["store owner"]

        assert (told["status"], "adapters fsck --rebuild" in told["detail"]) == ("fail", True)
        assert own_id(other) != owner

    def test_a_catalog_with_versions_keeps_its_id_and_is_refused(self, other, owner, tmp_path, database_url):
        elsewhere = open_registry(tmp_path / "home", database_url)
        elsewhere.push(make_adapter(tmp_path / "two", 2), "team/mine")
        elsewhere.close()

        with pytest.raises(ConflictError, match="belongs to registry") as refusal:
            other.fsck(rebuild=True)

        assert "--rebuild" not in refusal.value.hint
        assert own_id(other) != owner
        assert [info.ref for info in other.list(all_versions=True)] == ["team/mine@1"]

    def test_a_catalog_into_which_a_push_runs_is_refused(self, other, owner):
        """Its blobs may be on their way into another bucket."""
        handle = other._handle
        running = Lease(id="1" * 32, owner="elsewhere:/x", expires_at=LATER)
        handle.database.write(lambda session: session.add(running))

        with pytest.raises(ConflictError, match="belongs to registry"):
            other.fsck(rebuild=True)

        handle.database.write(lambda session: session.execute(delete(Lease)).rowcount)
        assert other.fsck(rebuild=True).made == ("team/sql@1",)

    def test_a_bucket_that_is_nobodys_gets_the_catalogs_own_id(self, other, owner):
        import obstore

        obstore.delete(other._handle.store.bucket.client, "registry.json")

        assert other.fsck(rebuild=True).made == ("team/sql@1",)

        assert own_id(other) not in ([], owner)
        assert other.init().store == other._handle.store.label
