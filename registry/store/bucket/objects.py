"""Blobs in an object store: `<prefix>/sha256/ab/<64 hex>`, sent and fetched by parts, verified whenever they arrive."""

from __future__ import annotations

import io
import re
import tempfile
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from registry.errors import ConflictError, CorruptError, MissingBlobError, SpoiledError, UnavailableError
from registry.files import scratch
from registry.files.disk import make_folder, reaching
from registry.files.staging import Staging
from registry.store.blobs import StoreCheck, StoredBlob
from registry.store.bucket.checkedparts import Stopped, compares_sums
from registry.store.bucket.claim import MARKER, check_owner, claim, take_over
from registry.store.bucket.downloads import fetch, save
from registry.store.bucket.multiparts import abort_unfinished, unfinished
from registry.store.bucket.partials import clear_partials, stale_partials
from registry.store.bucket.probe import probe
from registry.store.bucket.uploads import holds, upload
from registry.values.digests import hex_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from obstore import ObjectMeta

    from registry.catalog.database import Database
    from registry.files.staging import StagedFile
    from registry.files.transfer import Content
    from registry.store.bucket.bucket import Bucket
    from registry.store.bucket.claim import Catalog

_KEY = re.compile(r"sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})", re.ASCII)
_FILES_AT_ONCE = 4
_PAGE = 1000
_DELETES_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A BlobStore in a bucket. `staging_root` is local; nothing staged is fsynced, since the bucket is what lasts.

    Before anything is written or deleted the bucket is claimed for `catalog`: one bucket and prefix hold the blobs of
    one catalog, so that no gc takes another's blobs for orphans. None claims nothing.
    """

    bucket: Bucket
    staging_root: Path
    catalog: Catalog | None = None

    @property
    def label(self) -> str:
        """The bucket's URL, without secrets."""
        return self.bucket.label

    def prepare(self) -> None:
        """Tries what the bucket must do, and claims it."""
        probe(self.bucket, self.catalog)
        self._claim()

    def take_over(self, database: Database) -> None:
        """Makes a catalog without versions the bucket's owner."""
        take_over(self.bucket, database)

    def checks(self) -> tuple[StoreCheck, ...]:
        """What it can do, whose it is, and what its clock says."""
        try:
            found = probe(self.bucket, self.catalog)
            owner = check_owner(self.bucket, self.catalog)
        except (UnavailableError, ConflictError) as error:
            return (StoreCheck("store", " ".join(filter(None, (str(error), error.hint))), "fail"),)
        return (*found, owner, *self._s3_checks())

    def _s3_checks(self) -> Iterator[StoreCheck]:
        if self.bucket.url.scheme != "s3":
            return
        compares = "compares what it receives with sums" if compares_sums(self.bucket) else "compares no sums"
        yield StoreCheck("store checksums", compares)
        try:
            count = len(unfinished(self.bucket.url))
        except UnavailableError as error:
            yield StoreCheck("store uploads", f"{error}; {error.hint}", "warning")
        else:
            yield StoreCheck("store uploads", f"{count} unfinished for more than a day; gc gives them up")

    def require(self) -> None:
        """UnavailableError where the bucket cannot be listed."""
        self.bucket.ask(lambda: _page(self.bucket, None))

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A locked local folder to prepare files in."""
        self._claim()
        with scratch.scratch_folder(self.staging_root) as folder:
            yield Staging(folder, None, summed=self.bucket.compares)

    def place(self, *files: StagedFile) -> None:
        """Uploads staged files, unless the store proves by size and checksum that it has them. What was uploaded is
        proven by the checksum that the store returns, or by reading all of it back. Every byte is the store's then.
        """
        wanted, stop = {file.digest: file for file in files}, Event()
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            tasks = [threads.submit(self._place, file, stop) for file in wanted.values()]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # where one failed, or nobody waits any more, the others are not sent to their end
                threads.shutdown(wait=False, cancel_futures=True)
        ended = [task for task in tasks if not task.cancelled() and not isinstance(task.exception(), Stopped)]
        spoiled = [error for task in ended if isinstance(error := task.exception(), SpoiledError)]
        for error in spoiled:
            error.digests = tuple(one.expected for one in spoiled)
        for task in ended:
            task.result()

    def put_bytes(self, content: bytes) -> str:
        """Stages and places a small blob; returns its digest."""
        with self.staging() as folder:
            staged = folder.add(content, name="blob")
            self.place(staged)
        return staged.digest

    def exists(self, digest: str) -> bool:
        """Whether an object of that name is there; its bytes are not looked at."""
        try:
            self.size(digest)
        except MissingBlobError:
            return False
        return True

    def size(self, digest: str) -> int:
        """Bytes, as the store knows them."""
        import obstore

        key = _key(digest)
        return self.bucket.ask(lambda: obstore.head(self.bucket.client, key), digest)["size"]

    def open(self, digest: str) -> BinaryIO:
        """A verified local copy that has no name and goes when it is closed."""
        key = _key(digest)
        with reaching(self.staging_root):
            make_folder(self.staging_root)
            copy = tempfile.TemporaryFile(dir=self.staging_root)  # noqa: SIM115 (the caller closes it)
            try:
                self._check(digest, fetch(self.bucket, key, digest, write=copy.write))
                copy.seek(0)
            except BaseException:
                copy.close()
                raise
        return copy

    def read_bytes(self, digest: str) -> bytes:
        """All bytes of a small blob."""
        content = io.BytesIO()
        self._check(digest, fetch(self.bucket, _key(digest), digest, write=content.write))
        return content.getvalue()

    def verify(self, digest: str) -> Content:
        """Fetches and hashes a whole blob."""
        return self._check(digest, fetch(self.bucket, _key(digest), digest))

    def copy_to(self, digest: str, destination: Path, *, mode: int = 0o444) -> int:
        """Fetches a blob into a new file, fsynced, and returns its size."""
        key = _key(digest)
        with reaching(destination):
            try:
                content = save(self.bucket, key, digest, destination, mode=mode, partials=self.staging_root)
            except FileExistsError:
                raise ConflictError(f"{destination} exists already") from None
        return self._check(digest, content).size

    def delete(self, digest: str) -> bool:
        """Removes a blob; False where it was not there."""
        import obstore

        if not self.exists(digest):
            return False
        self._claim()
        self.bucket.ask(lambda: obstore.delete(self.bucket.client, _key(digest)))
        return True

    def strays(self) -> Iterator[str]:
        """Objects under the prefix that are no blobs."""
        for name, _, _ in self._objects():
            if name != MARKER and not _KEY.fullmatch(name):
                yield f"{self.bucket.label}: {name}"

    def stale_staging(self) -> list[Path]:
        """Staging folders of processes that are gone, and downloads that none has gone on with for a day."""
        return [*scratch.stale_folders(self.staging_root), *stale_partials(self.staging_root)]

    def clear_stale(self) -> int:
        """Removes those; returns how many. gc begins with this: ConflictError where the bucket is another catalog's."""
        self._claim()
        here = scratch.clear_stale(self.staging_root) + clear_partials(self.staging_root)
        with suppress(UnavailableError):  # `checks` tells of it; the rest of a collection goes on
            return here + abort_unfinished(self.bucket.url)
        return here

    @property
    def discards_at_once(self) -> int:
        """S3 takes many names in one request; the others one, of which some go beside each other."""
        return _PAGE if self.bucket.url.scheme == "s3" else _DELETES_AT_ONCE

    def discard(self, digests: Sequence[str]) -> None:
        """Removes some blobs, whether or not they are there, each asked for once."""
        import obstore

        self._claim()
        keys = [_key(digest) for digest in digests]
        with suppress(MissingBlobError):
            self.bucket.ask(lambda: obstore.delete(self.bucket.hasty, keys), "blobs", tries=1)

    def list(self) -> Iterator[StoredBlob]:
        """Every blob, in order of digest."""
        for name, size, mtime in self._objects():
            if found := _KEY.fullmatch(name):
                yield StoredBlob(f"sha256:{found.group(2)}", size, mtime)

    def _claim(self) -> None:
        if self.catalog is not None and not self.bucket.claimed:
            claim(self.bucket, self.catalog, before=lambda: probe(self.bucket, self.catalog))
            self.bucket.claimed = True

    def _place(self, file: StagedFile, stop: Event) -> None:
        key = _key(file.digest)
        if holds(self.bucket, key, file, stop) or upload(self.bucket, key, file, stop):
            return
        try:
            self.verify(file.digest)
        except MissingBlobError:
            raise
        except CorruptError as error:
            raise SpoiledError(error.subject, expected=error.expected, actual=error.actual) from None

    def _check(self, digest: str, content: Content) -> Content:
        if content.digest != digest:
            raise CorruptError(f"{self.label}: {_key(digest)}", expected=digest, actual=content.digest)
        return content

    def _objects(self) -> Iterator[tuple[str, int, float]]:
        last: str | None = None
        while page := self.bucket.ask(partial(_page, self.bucket, last)):
            for entry in page:
                yield entry["path"], entry["size"], entry["last_modified"].timestamp()
            last = page[-1]["path"]


def _page(bucket: Bucket, after: str | None) -> Sequence[ObjectMeta]:
    """A page of its own request each, so that a listing goes on where it was interrupted."""
    import obstore

    return next(iter(obstore.list(bucket.client, offset=after, chunk_size=_PAGE)), ())


def _key(digest: str) -> str:
    name = hex_of(digest)
    return f"sha256/{name[:2]}/{name}"
