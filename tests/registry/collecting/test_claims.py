"""Who deletes a blob, and until when: on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from registry.catalog import leases
from registry.collecting import claims
from registry.models import Blob, File
from registry.store.blobs import StoredBlob
from tests.factories import digest, publish

A, B, C = digest("a"), digest("b"), digest("c")
HOUR = timedelta(hours=1)
US = claims.Claimant("host:1", "run-1", alone=False)
THEM = claims.Claimant("host:2", "run-2", alone=False)
LONG_AGO, FAR_AHEAD = datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)


def put(database, *digests, **values):
    database.write(lambda session: session.add_all([Blob(digest=one, size=1, **values) for one in digests]))


def rows(database):
    with database.reading() as session:
        return {row.digest: (row.state, row.deleting_by) for row in session.scalars(select(Blob))}


def run(database, work, *arguments):
    return database.write(lambda session: work(session, *arguments))


def names(sized):
    return {name for name, _ in sized}


def test_what_nothing_names_is_condemned_and_claimed_for_a_minute(database):
    put(database, A)
    assert run(database, claims.condemn, "") == A
    assert rows(database) == {A: ("condemned", None)}

    assert run(database, claims.take, US) == [(A, 1)]

    assert rows(database) == {A: ("deleting", "host:1/run-1")}
    with database.reading() as session:
        until, now = session.execute(select(Blob.deleting_until, func.current_timestamp())).one()
        assert timedelta(seconds=50) < until - datetime.fromisoformat(str(now)).replace(tzinfo=UTC) <= HOUR / 60


def test_condemning_goes_by_pages(database, monkeypatch):
    monkeypatch.setattr(claims, "BATCH", 1)  # a page is four
    put(database, *(digest(n) for n in range(10)))

    after, pages = "", 0
    while (after := run(database, claims.condemn, after)) is not None:
        pages += 1

    assert pages == 3
    assert {state for state, _ in rows(database).values()} == {"condemned"}


def test_a_blob_of_a_version_is_never_condemned(database):
    publish(database)
    run(database, claims.condemn, "")

    assert {state for state, _ in rows(database).values()} == {"live"}


def test_a_condemned_blob_that_a_version_names_by_now_is_live_again(database):
    publish(database)
    database.write(lambda session: session.execute(update(Blob).values(state="condemned")))

    assert run(database, claims.take, US) == ()
    assert {state for state, _ in rows(database).values()} == {"live"}


def test_a_condemned_blob_that_a_lease_names_by_now_is_live_again(database):
    put(database, A)
    database.write(lambda session: leases.acquire(session, [A], HOUR))
    database.write(lambda session: session.execute(update(Blob).values(state="condemned")))

    assert run(database, claims.take, US) == ()
    assert rows(database) == {A: ("live", None)}


@pytest.mark.parametrize(
    ("by", "until", "alone", "taken"),
    [
        ("host:2/run-2", FAR_AHEAD, False, False),  # it lives, for all we know
        ("host:2/run-2", LONG_AGO, False, True),
        ("host:1/other", FAR_AHEAD, False, False),  # its request may be on its way
        ("host:1/other", FAR_AHEAD, True, True),  # its lock is ours, so it is dead
        ("host:2/run-2", FAR_AHEAD, True, False),
        ("host:1_/other", FAR_AHEAD, True, False),
        (None, None, False, True),  # a client of schema 0001
    ],
)
def test_who_may_take_a_deletion_over(database, by, until, alone, taken):
    put(database, A, state="deleting", deleting_by=by, deleting_until=until)
    us = claims.Claimant("host:1", "run-1", alone=alone)

    assert names(run(database, claims.take_over, us)) == ({A} if taken else set())
    assert rows(database)[A][1] == (us.name if taken else by)


def test_a_push_takes_over_what_it_wants_alone(database):
    put(database, A, B, state="deleting")

    assert names(run(database, claims.take_over, US, [B, C])) == {B}


def test_a_row_that_a_version_names_is_not_deleted_whatever_its_state(database):
    """Only damage makes such a row; fsck names it."""
    publish(database)
    database.write(lambda session: session.execute(update(Blob).values(state="deleting")))

    assert run(database, claims.take_over, US) == ()


def test_a_run_forgets_only_rows_that_are_still_its_own(database):
    put(database, A, state="deleting", deleting_by=US.name)
    put(database, B, state="deleting", deleting_by=THEM.name)
    put(database, C, state="live", deleting_by=US.name)

    run(database, claims.forget, US, [A, B, C])

    assert set(rows(database)) == {B, C}


def test_blobs_without_rows_are_claimed_unless_a_row_or_a_lease_names_them(database):
    put(database, A)
    database.write(lambda session: leases.acquire(session, [B], HOUR))
    found = [StoredBlob(one, 7, 0.0) for one in (A, B, C)]

    with database.reading() as session:
        assert [blob.digest for blob in claims.unknown(session, found)] == [C]
    assert run(database, claims.adopt, US, found) == [(C, 7)]
    assert rows(database)[C] == ("deleting", US.name)
    assert run(database, claims.adopt, US, [found[1]]) == ()


def test_a_claim_holds_until_its_margin_by_a_clock_read_before_it(database, monkeypatch):
    put(database, A, state="condemned")
    moments = iter([1000.0, 1034.9, 1035.1])
    monkeypatch.setattr(claims, "_clock", lambda: next(moments))

    claim = claims.claim(database, lambda session: claims.take(session, US))

    assert claim.blobs == ((A, 1),)
    assert (claim.holds, claim.holds) == (True, False)


def test_no_lease_is_taken_while_blobs_without_rows_are_claimed(postgres_url):
    """The advisory lock, seen by a second connection that would have to wait for it."""
    from registry.catalog.database import Database

    database = Database(postgres_url)

    def adopting(session):
        claims.adopt(session, US, [StoredBlob(A, 7, 0.0)])
        with database.reading() as other:
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
            return other.connection().exec_driver_sql(held).scalar()

    assert database.write(adopting) == 1
    assert database.write(lambda session: leases.acquire(session, [A], HOUR)) is None
    database.dispose()


def test_every_file_row_of_a_version_keeps_its_blob(database):
    """The key that keeps a row from being dropped under a version, whatever gc believes."""
    from sqlalchemy import delete
    from sqlalchemy.exc import IntegrityError

    publish(database)
    with pytest.raises(IntegrityError):
        database.write(lambda session: session.execute(delete(Blob)))
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(File).where(File.blob_digest.is_(None))) == 0
