"""Which digests a running push protects. A lease is taken before the first blob is placed and ends with the publish."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.orm import aliased

from registry.clock import now
from registry.database import insert_into
from registry.errors import BusyError, ConflictError
from registry.models import Blob, Lease, LeaseBlob

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session

# Held shared by every publish, and alone by gc while it unlinks files that no row names.
_PUBLISH_LOCK = 7_235_441_002


def acquire(session: Session, digests: Iterable[str], ttl: timedelta, *, owner: str | None = None) -> str:
    """Protect digests from gc for `ttl` of the database's clock, whether or not they are known yet; the lease's id.

    Brings condemned blobs back. BusyError while gc is deleting one of them: `Database.write` waits and tries again.
    """
    wanted = sorted(set(digests))
    lease = secrets.token_hex(16)
    session.execute(insert_into(session, Lease).values(id=lease, owner=owner, expires_at=now(session) + ttl))
    if wanted:
        session.execute(insert_into(session, LeaseBlob), [{"lease_id": lease, "digest": digest} for digest in wanted])
        keep(session, wanted)
    return lease


def release(session: Session, lease: str) -> None:
    """End a lease; one that is gone already is no error."""
    session.execute(delete(LeaseBlob).where(LeaseBlob.lease_id == lease))
    session.execute(delete(Lease).where(Lease.id == lease))


def require(session: Session, lease: str) -> None:
    """ConflictError where the lease ran out: its blobs may have been collected since."""
    alive = select(Lease.id).where(Lease.id == lease, Lease.expires_at > func.current_timestamp())
    if session.scalar(alive) is None:
        raise ConflictError(f"lease {lease} of this push ran out before it was published", hint="push again")


def keep(session: Session, digests: Iterable[str]) -> None:
    """Mark known blobs live, and lock their rows so that gc looks again after this transaction.

    BusyError while one of them is being deleted.
    """
    wanted = sorted(set(digests))
    for digest in wanted:  # one by one in this order, so that two pushes never wait for each other in a ring
        session.execute(
            update(Blob)
            .where(Blob.digest == digest, Blob.state != "deleting")
            .values(state="live", condemned_at=None)
            .execution_options(synchronize_session=False)
        )
    doomed = session.scalar(select(Blob.digest).where(Blob.digest.in_(wanted), Blob.state == "deleting").limit(1))
    if doomed is not None:
        raise BusyError(f"blob {doomed} is being deleted by gc", hint="adapters gc finishes an interrupted run")


def leased(digest: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """The condition that an unexpired lease names a digest."""
    lease, blob = aliased(Lease), aliased(LeaseBlob)
    return exists().where(blob.digest == digest, lease.id == blob.lease_id, lease.expires_at > func.current_timestamp())


def drop_expired(session: Session) -> int:
    """Forget leases that ran out; how many."""
    expired = list(session.scalars(select(Lease.id).where(Lease.expires_at <= func.current_timestamp())))
    for lease in expired:
        release(session, lease)
    return len(expired)


def share_publishing(session: Session) -> None:
    """Publish beside others, but not while `hold_publishing` is held. On SQLite the write lock does this."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({_PUBLISH_LOCK})"))


def hold_publishing(session: Session) -> None:
    """Keep every publish out until this transaction ends."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_PUBLISH_LOCK})"))
