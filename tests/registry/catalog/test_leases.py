from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from registry.catalog import leases
from registry.errors import BusyError
from registry.models import Blob, Lease, LeaseBlob
from tests.factories import digest

HOUR = timedelta(hours=1)
A, B = digest("a"), digest("b")


def states(database):
    with database.reading() as session:
        return {row.digest: row.state for row in session.execute(select(Blob.digest, Blob.state))}


def put_blob(database, state):
    database.write(lambda session: session.add(Blob(digest=A, size=1, state=state)))


def protected(database):
    with database.reading() as session:
        return set(session.scalars(select(LeaseBlob.digest).where(leases.leased(LeaseBlob.digest))))


def test_a_lease_protects_digests_known_and_unknown(database):
    put_blob(database, "live")
    database.write(lambda session: leases.acquire(session, [A, B, A], HOUR))

    assert protected(database) == {A, B}


def test_an_expired_lease_protects_nothing_and_is_dropped(database):
    database.write(lambda session: leases.acquire(session, [A], timedelta(0)))
    kept = database.write(lambda session: leases.acquire(session, [B], HOUR))

    assert protected(database) == {B}
    assert database.write(leases.drop_expired) == 1
    with database.reading() as session:
        assert session.scalars(select(Lease.id)).all() == [kept]


def test_a_released_lease_is_gone_and_releasing_again_is_no_error(database):
    lease = database.write(lambda session: leases.acquire(session, [A], HOUR))
    for _ in range(2):
        database.write(lambda session: leases.release(session, lease))

    with database.reading() as session:
        assert session.scalars(select(LeaseBlob.digest)).all() == []


def test_a_condemned_blob_comes_back(database):
    put_blob(database, "condemned")

    database.write(lambda session: leases.acquire(session, [A], HOUR))

    assert states(database) == {A: "live"}


def test_a_blob_being_deleted_stops_the_lease(database):
    put_blob(database, "deleting")

    assert database.write(lambda session: leases.acquire(session, [A], HOUR)) is None
    assert states(database) == {A: "deleting"}
    assert protected(database) == set()


def test_a_blob_being_deleted_is_not_kept(database, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    put_blob(database, "deleting")

    with pytest.raises(BusyError, match=f"blob {A} is being deleted by gc"):
        database.write(lambda session: leases.keep(session, [A]))
    assert states(database) == {A: "deleting"}


def test_a_publish_waits_until_the_row_of_a_deleted_blob_is_gone(database, monkeypatch):
    """gc drops the row while the transaction pauses between two tries."""
    put_blob(database, "deleting")

    def gc_finishes(seconds):
        database.write(lambda session: session.execute(delete(Blob)))

    monkeypatch.setattr("time.sleep", gc_finishes)
    database.write(lambda session: leases.keep(session, [A]))

    assert states(database) == {}


def test_gc_cannot_pass_while_a_publish_is_open(postgres_url):
    """The advisory lock that SQLite's single writer makes needless."""
    from registry.catalog.database import Database

    database = Database(postgres_url)
    order = []
    publishing, release = threading.Event(), threading.Event()

    def publish(session):
        leases.share_publishing(session)
        publishing.set()
        release.wait(10)
        order.append("publish")

    def gc(session):
        leases.hold_publishing(session)
        order.append("gc")

    threads = [threading.Thread(target=database.write, args=(publish,))]
    threads[0].start()
    publishing.wait(10)
    threads.append(threading.Thread(target=database.write, args=(gc,)))
    threads[1].start()
    threads[1].join(0.3)
    release.set()
    for thread in threads:
        thread.join()

    assert order == ["publish", "gc"]
    database.dispose()
