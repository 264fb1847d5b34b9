"""A staged file becomes an object: its bytes are hashed again on their way out, and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from registry.errors import MissingBlobError
from registry.files import partsums
from registry.store.bucket.checkedparts import Stopped, send_checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from threading import Event

    from registry.files.staging import StagedFile
    from registry.store.bucket.bucket import Bucket

PART = 8 << 20
_MOST_PARTS = 10_000
_STREAMS = 4
_HASHERS = 2
_AHEAD = 4


def upload(bucket: Bucket, key: str, file: StagedFile, stop: Event) -> bool:
    """Stores the file as `key`, in parts sent beside each other; an object appears whole or not at all, in place of
    what was there. Returns whether the store's own checksum proves that it received these bytes: if not, read them.

    CorruptError, with the object as it was, where the staged copy no longer has its digest; IntakeError where that is a
    file that was left in its place; Stopped, with the object as it was, soon after `stop` was set.
    """
    if file.parts is not None and send_checked(bucket, key, file, file.parts, stop):
        return True
    return bucket.ask(lambda: _send(bucket, key, file, stop))


def _send(bucket: Bucket, key: str, file: StagedFile, stop: Event) -> bool:
    import obstore

    whole = file.size <= PART
    with _Parts(file, stop) as parts:
        stored = obstore.put(
            bucket.client,
            key,
            b"".join(parts) if whole else iter(parts),
            use_multipart=not whole,
            chunk_size=parts.size,
            max_concurrency=_STREAMS,
        )
        return _plain(stored["e_tag"]) == parts.checksum()


def holds(bucket: Bucket, key: str, file: StagedFile, stop: Event) -> bool:
    """Whether the store proves, by size and its own checksum, that `key` is this file already. An object of that name
    alone proves nothing.
    """
    import obstore

    try:
        known = bucket.ask(lambda: obstore.head(bucket.client, key), file.digest)
    except MissingBlobError:
        return False
    if known["size"] != file.size or known["e_tag"] is None:
        return False
    size = _sent_in(file.size, known["e_tag"])
    if size is None:
        return False
    with _Parts(file, stop, size) as parts:
        for _ in parts:
            pass
        return _plain(known["e_tag"]) == parts.checksum()


def tells(e_tag: str | None, content: bytes) -> bool:
    """Whether an ETag proves that the store received these bytes, sent in one piece."""
    return _plain(e_tag) == _md5(content).hex()


class _Parts:
    """The parts of a staged file, hashed in threads beside their way out: by sha256, and as S3 makes its ETags.

    The last part is not given away unless the whole has its digest: then an upload ends without an object. So it does
    once `stop` is set.
    """

    def __init__(self, file: StagedFile, stop: Event, size: int | None = None) -> None:
        self.file = file
        self.stop = stop
        self.size = size or part_size(file.size)
        self._sums: list[Future[bytes]] = []
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        self._ordered, self._beside = ThreadPoolExecutor(1), ThreadPoolExecutor(_HASHERS)
        return self

    def __exit__(self, *error: object) -> None:
        self._ordered.shutdown()
        self._beside.shutdown()

    def __iter__(self) -> Iterator[bytes]:
        with self.file.opened() as source, os.fdopen(os.dup(source), "rb") as stream:
            done = 0
            while True:
                if self.stop.is_set():
                    raise Stopped
                block = stream.read(self.size)
                done += len(block)
                hashed = self._ordered.submit(self._sha256.update, block)
                self._sums.append(self._beside.submit(_md5, block))
                if len(self._sums) > _AHEAD:
                    self._sums[-_AHEAD].result()
                if done >= self.file.size or len(block) < self.size:
                    hashed.result()
                    self._require_digest()
                    yield block
                    return
                yield block

    def checksum(self) -> str:
        """What S3 and its like answer as the ETag of an object stored in these parts, where they tell its MD5."""
        sums = [one.result() for one in self._sums]
        if self.file.size <= PART:
            return sums[0].hex()
        return f"{_md5(b''.join(sums)).hex()}-{len(sums)}"

    def _require_digest(self) -> None:
        actual = f"sha256:{self._sha256.hexdigest()}"
        if actual != self.file.digest:
            raise self.file.changed(str(self.file.path), expected=self.file.digest, actual=actual)


def part_size(size: int) -> int:
    """Bytes of each part but the last, of what obstore sends: a store takes 10,000 parts at most."""
    return max(PART, -(-size // _MOST_PARTS))


def _sent_in(size: int, e_tag: str) -> int | None:
    """In which parts an object of this size was sent here, by their number in its ETag; None where it was not."""
    _, dash, count = (_plain(e_tag) or "").partition("-")
    if not dash:
        return PART if size <= PART else None
    fitting = (part for part in (part_size(size), partsums.part_size(size)) if str(-(-size // part)) == count)
    return next(fitting, None)


def _md5(block: bytes) -> bytes:
    return hashlib.md5(block, usedforsecurity=False).digest()


def _plain(e_tag: str | None) -> str | None:
    return None if e_tag is None else e_tag.strip('"')
