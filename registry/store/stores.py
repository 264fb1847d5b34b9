"""Which blob store a registry uses: the one place that looks at the store's URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.store.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.catalog.database import Database
    from registry.settings import Settings
    from registry.store.blobs import BlobStore


def open_store(settings: Settings, database: Callable[[], Database]) -> BlobStore:
    """The folder in the home, or the bucket that the URL names, which belongs to the catalog in `database`.

    Asks nothing of either yet; UsageError for a bad URL.
    """
    if settings.store_url is None:
        return FolderStore(settings.blobs, settings.staging)
    from registry.store.bucket.bucket import Bucket
    from registry.store.bucket.claim import Catalog
    from registry.store.bucket.objects import ObjectStore
    from registry.store.storeurl import parse_store_url

    return ObjectStore(Bucket(parse_store_url(settings.store_url)), settings.staging, Catalog(database))
