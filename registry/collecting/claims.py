"""Who deletes which blobs. A row in state `deleting` is one run's until a moment of the database's clock.

The run sends no delete later than MARGIN_S before that moment, by a clock of its own that was read before the claim
was made. So whoever finds the moment past may delete the blob again, or forget it, and nothing of the first run is
still on its way. The README tells what becomes of a run that dies.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, or_, select, update

from registry.catalog.clock import now
from registry.catalog.database import insert_into
from registry.catalog.leases import hold_publishing, leased
from registry.models import Blob, File, LeaseBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Update
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.store.blobs import StoredBlob

CLAIM = timedelta(seconds=60)
MARGIN_S = 25.0  # a delete takes less, or fails; on SQLite the moment itself may be a second early
BATCH = 500

Sized = tuple[str, int]  # digest and bytes


@dataclass(frozen=True, slots=True)
class Claimant:
    """A run that deletes. `alone`: it holds the lock of `place`, so that claims made from there are of the dead."""

    place: str
    run: str
    alone: bool

    @property
    def name(self) -> str:
        """What its rows carry."""
        return f"{self.place}/{self.run}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Blobs to delete, and until when by this process's clock."""

    blobs: tuple[Sized, ...]
    ends: float

    @property
    def holds(self) -> bool:
        """Whether a delete may still be sent."""
        return _clock() < self.ends - MARGIN_S


def claimant(place: str, *, alone: bool) -> Claimant:
    """A new run at a place."""
    return Claimant(place, secrets.token_hex(8), alone)


def claim(database: Database, work: Callable[[Session], Sequence[Sized]]) -> Claim:
    """Run `take`, `take_over` or `adopt`: what they return is claimed from before the transaction began."""
    ends = _clock() + CLAIM.total_seconds()
    return Claim(tuple(database.write(work)), ends)


def _clock() -> float:
    # It goes on while the machine sleeps, and no person sets it.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def unneeded() -> ColumnElement[bool]:
    """A blob row that no file names and no lease protects."""
    return ~exists().where(File.blob_digest == Blob.digest) & ~leased(Blob.digest)


def condemn(session: Session, after: str) -> str | None:
    """Mark what nothing needs, in the next page of digests; where that page ends, None after the last."""
    page = select(Blob.digest).where(Blob.digest > after).order_by(Blob.digest).limit(BATCH * 4).subquery()
    last: str | None = session.scalar(select(page.c.digest).order_by(page.c.digest.desc()).limit(1))
    if last is None:
        return None
    inside = (Blob.digest > after, Blob.digest <= last, Blob.state == "live")
    query = select(Blob.digest).where(*inside, unneeded()).order_by(Blob.digest)
    if found := session.scalars(query.with_for_update(skip_locked=True)).all():
        marked = {"state": "condemned", "condemned_at": now(session)}
        session.execute(_change(found).where(Blob.state == "live").values(marked))
    return last


def take(session: Session, who: Claimant) -> Sequence[Sized]:
    """Claim some condemned blobs that nothing needs by now, and mark live those that something does.

    The second look is a statement of its own after the rows were locked: it sees all that was committed before.
    """
    condemned = select(Blob.digest).where(Blob.state == "condemned").limit(BATCH)
    while found := session.scalars(condemned.with_for_update(skip_locked=True)).all():
        taken = _mark(session, found, who)
        gone = {digest for digest, _ in taken}
        if needed := [digest for digest in found if digest not in gone]:
            session.execute(_change(needed).values(state="live", condemned_at=None))
        if taken:
            return taken
    return ()


def take_over(session: Session, who: Claimant, digests: Iterable[str] | None = None) -> Sequence[Sized]:
    """Claim some blobs (of these, if given) whose deletion was begun by a run that is dead or late."""
    query = select(Blob.digest).where(abandoned(who, now(session)), unneeded())
    if digests is not None:
        query = query.where(Blob.digest.in_(list(digests)))
    found = session.scalars(query.limit(BATCH).with_for_update(skip_locked=True)).all()
    return _mark(session, found, who) if found else ()


def abandoned(who: Claimant, moment: datetime) -> ColumnElement[bool]:
    """Blobs in deletion that this run may take over. Clients of schema 0001 name nobody."""
    late = or_(Blob.deleting_until.is_(None), Blob.deleting_until <= moment)
    mine = Blob.deleting_by.startswith(f"{who.place}/", autoescape=True)
    return (Blob.state == "deleting") & (or_(late, mine) if who.alone else late)


def adopt(session: Session, who: Claimant, found: Sequence[StoredBlob]) -> Sequence[Sized]:
    """Claim blobs of the store that no row and no lease names, by rows in state `deleting`.

    No lease is taken meanwhile: a push has named its digests before, and they are spared, or it meets these rows. A row
    that a publish is just inserting makes this one wait for it, and lose.
    """
    hold_publishing(session)
    spared, claimed = _leased_among(session, [blob.digest for blob in found]), _claimed(session, who)
    rows = [{"digest": blob.digest, "size": blob.size, **claimed} for blob in found if blob.digest not in spared]
    if not rows:
        return ()
    adopted = insert_into(session, Blob).on_conflict_do_nothing(index_elements=["digest"])
    return [(digest, size) for digest, size in session.execute(adopted.returning(Blob.digest, Blob.size), rows)]


def unknown(session: Session, found: Sequence[StoredBlob]) -> list[StoredBlob]:
    """Those that no row and no lease names at this moment."""
    digests = [blob.digest for blob in found]
    known = _leased_among(session, digests).union(session.scalars(select(Blob.digest).where(Blob.digest.in_(digests))))
    return [blob for blob in found if blob.digest not in known]


def forget(session: Session, who: Claimant, digests: Sequence[str]) -> None:
    """Drop the rows of blobs that are deleted, unless another run took them over."""
    mine = (Blob.state == "deleting", Blob.deleting_by == who.name)
    session.execute(delete(Blob).where(Blob.digest.in_(digests), *mine).execution_options(synchronize_session=False))


def _mark(session: Session, digests: Sequence[str], who: Claimant) -> Sequence[Sized]:
    taken = _change(digests).where(unneeded()).values(_claimed(session, who)).returning(Blob.digest, Blob.size)
    return [(digest, size) for digest, size in session.execute(taken)]


def _claimed(session: Session, who: Claimant) -> dict[str, object]:
    return {"state": "deleting", "deleting_by": who.name, "deleting_until": now(session) + CLAIM}


def _leased_among(session: Session, digests: Sequence[str]) -> set[str]:
    return set(session.scalars(select(LeaseBlob.digest).where(LeaseBlob.digest.in_(digests), leased(LeaseBlob.digest))))


def _change(digests: Sequence[str]) -> Update:
    return update(Blob).where(Blob.digest.in_(digests)).execution_options(synchronize_session=False)
