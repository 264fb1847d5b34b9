"""What an object store can do, tried on a small object that is removed again."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from registry.errors import UnavailableError
from registry.store.blobs import StoreCheck
from registry.store.bucket.bucket import refused_with

if TYPE_CHECKING:
    from registry.store.bucket.bucket import Bucket
    from registry.store.bucket.claim import Catalog

SKEW = timedelta(minutes=15)
_CONTENT = b"adapters tries what this store can do"


def probe(bucket: Bucket, catalog: Catalog | None) -> tuple[StoreCheck, ...]:
    """Put, conditional put, head, ranged get, list, delete, and the clocks.

    UnavailableError names the first that a registry cannot do without. Nothing is left, unless deleting is refused.
    """
    name = f"probe/{uuid.uuid4().hex}"
    _write(bucket, name)
    try:
        conditional = _try_condition(bucket, name)
        _try_reading(bucket, name)
        skew = _skew(bucket, name, catalog)
    finally:
        _remove(bucket, name)
    if abs(skew) > SKEW:
        seconds = round(abs(skew).total_seconds())
        raise UnavailableError(
            f"{bucket.label}: its clock and the database's are {seconds} s apart; gc would misjudge how old blobs are",
            hint="set the clock of the machine that is wrong",
        )
    return (StoreCheck("store", f"{bucket.label} can be read, written, listed and deleted from"), conditional)


def _write(bucket: Bucket, name: str) -> None:
    import obstore

    try:
        bucket.ask(lambda: obstore.put(bucket.client, name, _CONTENT, use_multipart=False))
    except UnavailableError as error:
        raise UnavailableError(f"{error}, when a small object was written", hint=error.hint) from None


def _try_condition(bucket: Bucket, name: str) -> StoreCheck:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    def again() -> StoreCheck:
        try:
            obstore.put(bucket.client, name, _CONTENT, mode="create")
        except AlreadyExistsError as error:
            if refused_with(error) == 409:
                raise
            return StoreCheck("store conditions", "knows conditional puts")
        except BaseError as error:
            if refused_with(error) not in (400, 501):
                raise
        return StoreCheck("store conditions", "ignores conditional puts: claim it by one machine first", "warning")

    return bucket.ask(again)


def _try_reading(bucket: Bucket, name: str) -> None:
    import obstore

    size = bucket.ask(lambda: obstore.head(bucket.client, name))["size"]
    part = bucket.ask(lambda: obstore.get_range(bucket.client, name, start=2, end=9).to_bytes())
    listed = bucket.ask(lambda: next(iter(obstore.list(bucket.client, "probe")), ()))
    wrong = None
    if size != len(_CONTENT):
        wrong = f"tells a size of {size} for {len(_CONTENT)} bytes"
    elif part != _CONTENT[2:9]:
        wrong = "does not answer a range of bytes with that range"
    elif name not in {entry["path"] for entry in listed}:
        wrong = "does not list what was just written"
    if wrong:
        raise UnavailableError(f"{bucket.label}: {wrong}", hint="a registry needs a store that can do this")


def _skew(bucket: Bucket, name: str, catalog: Catalog | None) -> timedelta:
    """How far the store's clock is before the database's."""
    import obstore

    written = bucket.ask(lambda: obstore.head(bucket.client, name))["last_modified"]
    return written - (datetime.now(UTC) if catalog is None else catalog.now())


def _remove(bucket: Bucket, name: str) -> None:
    import obstore

    try:
        bucket.ask(lambda: obstore.delete(bucket.client, name))
    except UnavailableError as error:
        raise UnavailableError(f"{error}, when a small object was deleted", hint=error.hint) from None
