"""What a push does to keep gc from its blobs: its lease beats, is taken again, and it waits for a deletion."""

import signal
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from registry.catalog import leases
from registry.collecting import claims, protection
from registry.collecting.owners import folder_of, owner_of, place_of
from registry.errors import BlobGoingError, BusyError, LeaseLostError
from registry.models import Blob, Lease
from tests.factories import digest
from tests.registries import make_adapter
from tests.registry.stepping import Place, Step, Stepper

A = digest("a")


def expire(registry):
    """Every lease ran out a second ago, by the database's own clock."""
    sqlite = registry._handle.database.is_sqlite
    moment = func.datetime("now", "-1 second") if sqlite else func.now() - timedelta(seconds=1)
    change = update(Lease).values(expires_at=moment).execution_options(synchronize_session=False)
    registry._handle.database.write(lambda session: session.execute(change))


def expiries(registry):
    with registry._handle.database.reading() as session:
        return list(session.scalars(select(Lease.expires_at)))


def placing(registry, monkeypatch, then):
    """Calls `then` after the blobs of a push are placed and before it is published."""
    store = type(registry._handle.store)
    place = store.place

    def wrapped(self, *files):
        place(self, *files)
        if len(files) > 1:
            then()

    monkeypatch.setattr(store, "place", wrapped)


def test_a_running_push_renews_its_lease(registry, monkeypatch, tmp_path):
    monkeypatch.setattr(protection, "LEASE", timedelta(seconds=2))
    seen = []

    def wait():
        end = time.monotonic() + 30
        while len(set(seen)) < 3 and time.monotonic() < end:
            seen.extend(expiries(registry))
            time.sleep(0.1)

    placing(registry, monkeypatch, wait)

    assert registry.push(make_adapter(tmp_path / "a"), "team/sql").version == 1
    assert len(set(seen)) >= 3, seen
    assert expiries(registry) == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "lease"] == []


def test_a_lease_that_ran_out_cannot_be_renewed(database):
    hour = timedelta(hours=1)
    spent = database.write(lambda session: leases.acquire(session, [A], timedelta(0)))
    kept = database.write(lambda session: leases.acquire(session, [A], timedelta(seconds=100)))

    assert not database.write(lambda session: leases.renew(session, spent, hour))
    assert database.write(lambda session: leases.renew(session, kept, hour))
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Lease)) == 2


def test_a_push_whose_lease_ran_out_takes_another_where_its_blobs_are_still_there(registry, monkeypatch, tmp_path):
    placing(registry, monkeypatch, lambda: expire(registry))

    ref = registry.push(make_adapter(tmp_path / "a"), "team/sql").ref

    assert registry.verify(ref).status == "pass"
    registry.gc(grace="0")
    assert registry.fsck().findings == ()


def test_a_push_whose_lease_ran_out_and_whose_blobs_gc_took_publishes_nothing(registry, monkeypatch, tmp_path):
    def collected():
        expire(registry)
        assert registry.gc(grace="0").blobs > 0

    with monkeypatch.context() as patch:
        placing(registry, patch, collected)
        with pytest.raises(LeaseLostError, match="ran out before it was published") as refusal:
            registry.push(make_adapter(tmp_path / "a"), "team/sql")

    assert (refusal.value.exit_code, refusal.value.hint) == (5, "push again")
    assert registry.list() == []
    assert registry.push(tmp_path / "a", "team/sql").version == 1
    assert registry.fsck().findings == ()


def test_a_push_waits_for_a_run_elsewhere_no_longer_than_its_claim(registry, monkeypatch):
    """The claim of a run on another host ends a second from now; then the push ends the deletion itself."""
    handle = registry._handle
    digest = handle.store.put_bytes(b"wanted")
    sqlite = handle.database.is_sqlite
    soon = func.datetime("now", "+2 seconds") if sqlite else func.now() + timedelta(seconds=2)
    insert = Blob.__table__.insert().values(
        digest=digest, size=6, state="deleting", deleting_by="elsewhere:1/x", deleting_until=soon
    )
    handle.database.write(lambda session: session.execute(insert))
    started = time.monotonic()

    protection.await_deletion(handle, [digest])

    assert time.monotonic() - started > 0.5
    assert not handle.store.exists(digest)
    with handle.database.reading() as session:
        assert session.scalars(select(Blob.digest)).all() == []


def test_a_push_gives_up_on_a_deletion_that_never_ends(registry, monkeypatch, tmp_path):
    handle = registry._handle
    source = make_adapter(tmp_path / "a")
    content = (source / "adapter_config.json").read_bytes()
    wanted = handle.store.put_bytes(content)
    far = func.datetime("now", "+1 day") if handle.database.is_sqlite else func.now() + timedelta(days=1)
    row = Blob.__table__.insert().values(
        digest=wanted, size=1, state="deleting", deleting_by="elsewhere:1/x", deleting_until=far
    )
    handle.database.write(lambda session: session.execute(row))
    monkeypatch.setattr(leases, "PATIENCE", timedelta(seconds=0.3))

    with pytest.raises(BlobGoingError, match=wanted) as refusal:
        registry.push(source, "team/sql")
    assert (refusal.value.exit_code, "gc" in refusal.value.hint) == (7, True)
    assert isinstance(refusal.value, BusyError)

    handle.database.write(lambda session: session.execute(delete(Blob)))
    assert registry.push(source, "team/sql").version == 1


def test_a_gc_that_slept_past_its_claim_deletes_nothing_and_drops_nothing(database_url, s3_url, tmp_path):
    """Stopped after its claim, overtaken by a push of the same content, then woken: the push's blobs stay."""
    place = Place(tmp_path / "home", database_url, s3_url, claim_s=3, margin_s=1)
    registry, source = place.open(), make_adapter(tmp_path / "a")
    registry.remove(registry.push(source, "team/sql").ref)
    gc = Stepper(place, Step("after", "take"), "gc")
    assert gc.until_stopped()
    gc.pause(signal.SIGSTOP)

    ref = registry.push(source, "team/sql").ref
    gc.pause(signal.SIGCONT)
    gc.go_on()

    assert gc.result() == 0
    assert registry.verify(ref).status == "pass"
    assert registry.fsck().findings == ()
    registry.close()


def test_an_owner_is_told_by_the_folder_that_it_locks(tmp_path):
    root, other = tmp_path / "staging", tmp_path / "other"
    for folder in (root / "x.tmp", other / "x.tmp"):
        folder.mkdir(parents=True)

    assert folder_of(owner_of(root / "x.tmp"), root) == root / "x.tmp"
    assert folder_of(owner_of(other / "x.tmp"), root) is None
    assert place_of(root) != place_of(other)
    for unknown in (None, "", "host:/staging/x.tmp", place_of(root)):
        assert folder_of(unknown, root) is None


def test_a_container_of_the_same_name_and_path_is_another_place(tmp_path, monkeypatch):
    """Equal host names and paths, another kernel: its pushes are not ours to call dead."""
    from registry.collecting import owners

    here = place_of(tmp_path)
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(owners, "_BOOT_ID", tmp_path / "boot")

    assert place_of(tmp_path) != here


def test_claims_are_longer_than_their_margin_and_pushes_wait_longer_than_claims():
    from registry.store.blobs import DISCARD_S

    assert DISCARD_S < claims.MARGIN_S < claims.CLAIM.total_seconds() < leases.PATIENCE.total_seconds()
    assert protection.LEASE > leases.PATIENCE + claims.CLAIM
