"""Which digests gc spares. A push takes a lease before it places the first blob, and it ends with the publish; an
artifact that is kept in the store holds one without end.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.orm import aliased

from registry.catalog.clock import now
from registry.catalog.database import insert_into
from registry.errors import BlobGoingError, LeaseLostError
from registry.models import Blob, Lease, LeaseBlob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session

# Held shared while a lease is taken and while a version is published, and alone by gc while it claims blobs that no row
# names. On SQLite the write lock does this.
_PUBLISH_LOCK = 7_235_441_002

# How long a push waits for the deletion of a blob that it wants: longer than any gc run may claim it.
PATIENCE = timedelta(seconds=90)

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""When a lease ends that lasts until it is released."""


def acquire(session: Session, digests: Iterable[str], ttl: timedelta, *, owner: str | None = None) -> str | None:
    """Protect digests from gc for `ttl` of the database's clock, whether or not they are known yet; the lease's id.

    Brings condemned blobs back. None while gc is deleting one of them.
    """
    wanted = sorted(set(digests))
    share_publishing(session)
    _revive(session, wanted)
    if doomed(session, wanted):
        return None
    lease = secrets.token_hex(16)
    session.execute(insert_into(session, Lease).values(id=lease, owner=owner, expires_at=now(session) + ttl))
    if wanted:
        session.execute(insert_into(session, LeaseBlob), [{"lease_id": lease, "digest": digest} for digest in wanted])
    return lease


def hold(session: Session, digests: Iterable[str], *, owner: str) -> str:
    """A lease without end on digests whose blobs are known; its id. `release` ends it.

    No client's gc takes what it names, older ones included. The caller has marked the blobs live in this transaction.
    """
    lease = secrets.token_hex(16)
    session.execute(insert_into(session, Lease).values(id=lease, owner=owner[:256], expires_at=NEVER))
    rows = [{"lease_id": lease, "digest": digest} for digest in sorted(set(digests))]
    session.execute(insert_into(session, LeaseBlob), rows)
    return lease


def renew(session: Session, lease: str, ttl: timedelta) -> bool:
    """Let a lease last `ttl` from now; False where it ran out or was dropped, which nothing can undo."""
    alive = (Lease.id == lease, Lease.expires_at > func.current_timestamp())
    changed = update(Lease).where(*alive).values(expires_at=now(session) + ttl).returning(Lease.id)
    return session.scalar(changed.execution_options(synchronize_session=False)) is not None


def release(session: Session, lease: str) -> None:
    """End a lease; one that is gone already is no error."""
    session.execute(delete(LeaseBlob).where(LeaseBlob.lease_id == lease))
    session.execute(delete(Lease).where(Lease.id == lease))


def require(session: Session, lease: str) -> None:
    """LeaseLostError where the lease ran out: its blobs may have been collected since."""
    alive = select(Lease.id).where(Lease.id == lease, Lease.expires_at > func.current_timestamp())
    if session.scalar(alive) is None:
        raise LeaseLostError(f"lease {lease} of this push ran out before it was published", hint="push again")


def keep(session: Session, digests: Iterable[str]) -> None:
    """Mark known blobs live, and lock their rows so that gc looks again after this transaction.

    BlobGoingError while one of them is being deleted.
    """
    wanted = sorted(set(digests))
    _revive(session, wanted)
    if going := doomed(session, wanted):
        raise BlobGoingError(going[0])


def doomed(session: Session, digests: Iterable[str]) -> list[str]:
    """Those of the digests that a gc run is deleting, or died over."""
    going = select(Blob.digest).where(Blob.digest.in_(list(digests)), Blob.state == "deleting").order_by(Blob.digest)
    return list(session.scalars(going))


def _revive(session: Session, digests: Sequence[str]) -> None:
    for digest in digests:  # one by one in this order, so that two pushes never wait for each other in a ring
        session.execute(
            update(Blob)
            .where(Blob.digest == digest, Blob.state != "deleting")
            .values(state="live", condemned_at=None)
            .execution_options(synchronize_session=False)
        )


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
    """Take a lease, or publish, beside others, but not while `hold_publishing` is held."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({_PUBLISH_LOCK})"))


def hold_publishing(session: Session) -> None:
    """Keep every new lease and every publish out until this transaction ends, which must be soon."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_PUBLISH_LOCK})"))
