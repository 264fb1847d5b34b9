"""Whose a bucket is: a marker object with the catalog's id, written once by the first that uses it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select

from registry.catalog import leases
from registry.catalog.clock import now
from registry.catalog.database import insert_into
from registry.errors import ConflictError, MissingBlobError, UnavailableError
from registry.models import CatalogMeta, Lease, Version
from registry.store.blobs import StoreCheck
from registry.store.bucket.bucket import refused_with
from registry.store.bucket.uploads import tells

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from obstore import PutResult
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.store.bucket.bucket import Bucket

MARKER = "registry.json"
_KEY = "registry"  # in catalog_meta


@dataclass(frozen=True, slots=True)
class Catalog:
    """The catalog that a store belongs to. `open` gives its database, checked, when it is first needed."""

    open: Callable[[], Database]

    def id(self) -> str:
        """32 hex digits, made at the first call and kept in the catalog."""
        database = self.open()
        with database.reading() as session:
            known = _known(session)
        return known or database.write(_make)

    def now(self) -> datetime:
        """The time by the database's clock."""
        with self.open().reading() as session:
            return now(session)


def claim(bucket: Bucket, catalog: Catalog, *, before: Callable[[], object]) -> None:
    """Makes sure that the bucket is this catalog's; `before` is done where it was nobody's.

    ConflictError where it is another's. Of several first users exactly one gets it, where the store knows conditional
    puts.
    """
    mine = catalog.id()
    owner = _owner(bucket)
    if owner is None:
        before()
        _write(bucket, mine)
        owner = _owner(bucket)
    if owner != mine:
        raise _other(bucket, owner, catalog)


def check_owner(bucket: Bucket, catalog: Catalog | None) -> StoreCheck:
    """A row for `doctor`; writes nothing to the bucket."""
    owner = _owner(bucket)
    if owner is None:
        return StoreCheck("store owner", "nobody's yet: the first push claims it")
    if catalog is not None and owner != catalog.id():
        error = _other(bucket, owner, catalog)
        return StoreCheck("store owner", f"{error}: {error.hint}", "fail")
    return StoreCheck("store owner", f"registry {owner}")


def take_over(bucket: Bucket, database: Database) -> None:
    """Gives a catalog that holds no version the id of the bucket's owner: what a rebuilt catalog goes on as.

    An id that such a catalog made meanwhile is given up. ConflictError where the catalog has versions and is not the
    bucket's owner, or where a push is running into it; nothing happens where the bucket is nobody's.
    """
    owner = _owner(bucket)
    if owner is None:
        return
    if database.write(partial(_become, owner=owner)) != owner:
        raise _other(bucket, owner, Catalog(lambda: database))


def _become(session: Session, *, owner: str) -> str | None:
    """The catalog's id after it became the owner where it may."""
    leases.hold_publishing(session)  # no version and no lease comes between the look and the change
    known = _known(session)
    if known == owner or not _is_free(session):
        return known
    row = insert_into(session, CatalogMeta).values(key=_KEY, value=owner)
    session.execute(row.on_conflict_do_update(index_elements=["key"], set_={"value": owner}))
    return owner


def _is_free(session: Session) -> bool:
    """Whether no version of this catalog has its blobs anywhere, nor is on its way."""
    running = exists().where(Lease.expires_at > func.current_timestamp())
    return not session.scalar(select(exists().where(Version.id.is_not(None)) | running))


def _known(session: Session) -> str | None:
    return session.scalar(select(CatalogMeta.value).where(CatalogMeta.key == _KEY))


def _make(session: Session) -> str:
    row = insert_into(session, CatalogMeta).values(key=_KEY, value=uuid.uuid4().hex)
    session.execute(row.on_conflict_do_nothing(index_elements=["key"]))
    return session.scalars(select(CatalogMeta.value).where(CatalogMeta.key == _KEY)).one()


def _owner(bucket: Bucket) -> str | None:
    """The id in the marker, None where there is no marker; ConflictError where it is not one of ours."""
    import obstore

    def read() -> bytes:
        return obstore.get(bucket.client, MARKER).bytes().to_bytes()

    try:
        content = bucket.ask(read, MARKER)
    except MissingBlobError:
        return None
    try:
        document: dict[str, Any] = json.loads(content)
        return str(document["registry"])[:64]
    except (ValueError, TypeError, KeyError):
        raise ConflictError(f"{bucket.label}: its {MARKER} is no registry's", hint="choose another prefix") from None


def _write(bucket: Bucket, mine: str) -> None:
    """Only where there is none: whoever was first is read back by the caller. UnavailableError where the store received
    something else than was sent, which is taken away again: it would keep everybody out for ever.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, NotSupportedError

    content = json.dumps({"schema": 1, "registry": mine}).encode()

    def write() -> PutResult | None:
        try:
            return obstore.put(bucket.client, MARKER, content, mode="create")
        except AlreadyExistsError as error:
            if refused_with(error) == 409:  # another is at it just now, and may yet fail
                raise
        except NotSupportedError:
            obstore.put(bucket.client, MARKER, content)
        return None

    made = bucket.ask(write)
    if made is not None and not tells(made["e_tag"], content):
        _drop_garbled(bucket)


def _drop_garbled(bucket: Bucket) -> None:
    import obstore

    try:
        _owner(bucket)  # one that can be read may be another's, where the store ignores conditions
    except ConflictError:
        bucket.ask(lambda: obstore.delete(bucket.client, MARKER))
        said = f"{bucket.label}: its {MARKER} did not arrive as it was sent, and was taken away"
        raise UnavailableError(said, hint="run the same command again") from None


def _other(bucket: Bucket, owner: str | None, catalog: Catalog) -> ConflictError:
    hint = "choose another prefix, or the database that belongs to this store"
    with catalog.open().reading() as session:
        if _is_free(session):
            hint += "; where that database is lost, adapters fsck --rebuild makes this empty one its successor"
    return ConflictError(f"{bucket.label} belongs to registry {owner}, this catalog is {catalog.id()}", hint=hint)
