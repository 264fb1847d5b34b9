"""A staged file becomes an object: its bytes are hashed again on their way out, and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from registry.disk import reaching, reading
from registry.errors import CorruptError, MissingBlobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from registry.bucket import Bucket
    from registry.staging import StagedFile

PART = 8 << 20
_MOST_PARTS = 10_000
_STREAMS = 4
_HELPERS = 2
_NICE = 10


def upload(bucket: Bucket, key: str, file: StagedFile) -> bool:
    """Stores the file as `key`, in parts sent beside each other; an object appears whole or not at all, in place of
    what was there. Returns whether the store's own checksum proves that it received these bytes: if not, read them.

    CorruptError, with the object as it was, where the staged file no longer has its digest.
    """
    return bucket.ask(lambda: _send_whole(bucket, key, file) if file.size <= PART else _send_parts(bucket, key, file))


def holds(bucket: Bucket, key: str, file: StagedFile) -> bool:
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
    return _plain(known["e_tag"]) == _checksum(file, [_md5(part) for part in _parts(file)])


def _send_whole(bucket: Bucket, key: str, file: StagedFile) -> bool:
    import obstore

    content = b"".join(_parts(file))
    stored = obstore.put(bucket.client, key, content, use_multipart=False)
    return tells(stored["e_tag"], content)


def _send_parts(bucket: Bucket, key: str, file: StagedFile) -> bool:
    import obstore

    with _Sums(file) as sums:
        stored = obstore.put(
            bucket.client,
            key,
            _parts(file),
            use_multipart=True,
            chunk_size=part_size(file.size),
            max_concurrency=_STREAMS,
        )
        return _plain(stored["e_tag"]) == _checksum(file, sums.rest())


def tells(e_tag: str | None, content: bytes) -> bool:
    """Whether an ETag proves that the store received these bytes, sent in one piece."""
    return _plain(e_tag) == _md5(content).hex()


def part_size(size: int) -> int:
    """Bytes of each part but the last: a store takes 10,000 at most."""
    return max(PART, -(-size // _MOST_PARTS))


def _parts(file: StagedFile) -> Iterator[bytes]:
    """The parts of a staged file, hashed beside their way out. The last is not given away unless the whole has its
    digest (CorruptError): then an upload ends without an object.
    """
    size, done, sha256 = part_size(file.size), 0, hashlib.sha256()
    with (
        reaching(file.path),
        reading(file.path) as source,
        os.fdopen(os.dup(source), "rb") as stream,
        ThreadPoolExecutor(1) as hashing,
    ):
        pending: Future[None] | None = None
        while True:
            part = stream.read(size)
            if pending is not None:
                pending.result()
            pending = hashing.submit(sha256.update, part)
            done += len(part)
            if done >= file.size or len(part) < size:
                break
            yield part
        pending.result()
    actual = f"sha256:{sha256.hexdigest()}"
    if actual != file.digest:
        raise CorruptError(str(file.path), expected=file.digest, actual=actual)
    yield part


class _Sums:
    """The MD5s of a large file's parts, made where no core is wanted for anything else: what sends, and a store on the
    same machine, go first. The file is read for them once more: where it changed meanwhile they prove nothing.
    """

    def __init__(self, file: StagedFile) -> None:
        self._file = file
        self._size = part_size(file.size)
        self._count = -(-file.size // self._size)
        self._left = iter(range(self._count))
        self._given_up = False

    def __enter__(self) -> Self:
        self._idle = ThreadPoolExecutor(1, initializer=_step_back)
        self._early = self._idle.submit(self._take)
        return self

    def __exit__(self, *error: object) -> None:
        self._given_up = True
        self._idle.shutdown()

    def rest(self) -> list[bytes]:
        """All of them, in order; what is not done yet is done at once."""
        with ThreadPoolExecutor(_HELPERS) as helpers:
            late = [helpers.submit(self._take) for _ in range(_HELPERS)]
        sums = dict(pair for some in (self._early, *late) for pair in some.result())
        return [sums[number] for number in range(self._count)]

    def _take(self) -> list[tuple[int, bytes]]:
        taken = []
        with reaching(self._file.path), reading(self._file.path) as source:
            for number in self._left:
                if self._given_up:
                    break
                taken.append((number, _md5(os.pread(source, self._size, number * self._size))))
        return taken


def _step_back() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _checksum(file: StagedFile, sums: list[bytes]) -> str:
    """What S3 and its like answer as the ETag of an object stored in these parts, where they tell its MD5."""
    if file.size <= PART:
        return sums[0].hex()
    return f"{_md5(b''.join(sums)).hex()}-{len(sums)}"


def _md5(block: bytes) -> bytes:
    return hashlib.md5(block, usedforsecurity=False).digest()


def _plain(e_tag: str | None) -> str | None:
    return None if e_tag is None else e_tag.strip('"')
