"""An object's bytes come back: ranges fetched beside each other, handed on in order, hashed on the way."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from registry.files.disk import CREATE, discard, opened
from registry.files.transfer import Content, copy_hashed, write_all
from registry.store.bucket.bucket import refused_with
from registry.store.bucket.partials import drop, partial, take, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from hashlib import _Hash
    from pathlib import Path

    from obstore import Bytes

    from registry.store.bucket.bucket import Bucket

Hashed = tuple["_Hash", int]  # the state over some first bytes, and their number
RANGE = 8 << 20
_STREAMS = 4
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK}


def fetch(
    bucket: Bucket,
    key: str,
    digest: str,
    *,
    write: Callable[[Bytes], object] | None = None,
    known: Hashed | None = None,
) -> Content:
    """Reads an object, `write` getting its bytes in order, and says what was read. The caller compares that with
    `digest`, which only names the blob in errors. `known` are bytes that are here already: the rest is asked for.
    """
    hashed, size = known or (hashlib.sha256(), 0)
    with ThreadPoolExecutor(1) as hashing:
        pending: Future[None] | None = None
        for chunk in _chunks(bucket, key, digest, size):
            if pending is not None:
                pending.result()
            pending = hashing.submit(hashed.update, chunk)
            size += len(chunk)
            if write is not None:
                write(chunk)
        if pending is not None:
            pending.result()
    return Content(f"sha256:{hashed.hexdigest()}", size)


def save(bucket: Bucket, key: str, digest: str, destination: Path, *, mode: int, partials: Path) -> Content:
    """Fetches an object into a new file, fsynced, going on from what an interrupted download left in `partials`.

    FileExistsError where something is there. What was read may not be `digest`: then, and after an error, there is
    nothing at the destination.
    """
    if os.path.lexists(destination):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(destination))
    with partial(partials, digest) as kept:
        if kept is None:
            return _save_whole(bucket, key, digest, destination, mode)
        try:
            content = _finish(bucket, key, digest, kept)
            if content.digest == digest:
                os.fchmod(kept, mode)
                os.fsync(kept)
                _give(kept, partials, digest, destination, mode)
        except OSError:  # of this machine, perhaps for want of space
            drop(partials, digest)
            raise
        if content.digest != digest:
            drop(partials, digest)
        return content


def _save_whole(bucket: Bucket, key: str, digest: str, destination: Path, mode: int) -> Content:
    try:
        with opened(destination, CREATE) as target:
            os.fchmod(target, mode)
            content = fetch(bucket, key, digest, write=_writer(target))
            os.fsync(target)
    except BaseException:
        discard(destination)
        raise
    if content.digest != digest:
        discard(destination)
    return content


def _finish(bucket: Bucket, key: str, digest: str, kept: int) -> Content:
    known = written(kept)
    here = known[1]
    write = _writer(kept)
    content = fetch(bucket, key, digest, write=write, known=known)
    if content.digest != digest and here:  # what was kept may be what is wrong
        os.ftruncate(kept, 0)
        os.lseek(kept, 0, os.SEEK_SET)
        content = fetch(bucket, key, digest, write=write)
    return content


def _writer(kept: int) -> Callable[[Bytes], None]:
    return lambda chunk: write_all(kept, memoryview(chunk))


def _give(kept: int, partials: Path, digest: str, destination: Path, mode: int) -> None:
    try:
        take(partials, digest, destination)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        os.lseek(kept, 0, os.SEEK_SET)
        with opened(destination, CREATE) as target:
            os.fchmod(target, mode)
            copy_hashed(kept, target)
        drop(partials, digest)


def _chunks(bucket: Bucket, key: str, digest: str, start: int) -> Iterator[Bytes]:
    """The object in ranges from `start`, a few of them asked for ahead."""
    first, size = _first(bucket, key, digest, start)
    if first is None:
        return
    starts = iter(range(start + len(first), size, RANGE))
    with ThreadPoolExecutor(_STREAMS) as streams:
        ahead: deque[Future[Bytes]] = deque()

        def ask() -> None:
            for begin in starts:
                ahead.append(streams.submit(_range, bucket, key, digest, begin, min(begin + RANGE, size)))
                return

        for _ in range(_STREAMS):
            ask()
        yield first
        while ahead:
            chunk = ahead.popleft().result()
            ask()
            yield chunk


def _first(bucket: Bucket, key: str, digest: str, start: int) -> tuple[Bytes | None, int]:
    """The first range and the object's size, in one request; None for an object without bytes."""
    import obstore
    from obstore.exceptions import GenericError

    def ask() -> tuple[Bytes | None, int]:
        try:
            answer = obstore.get(bucket.client, key, options={"range": (start, start + RANGE)})
            return answer.bytes(), answer.meta["size"]
        except GenericError as error:
            if refused_with(error) != 416:  # there is no byte at the start to ask for
                raise
            return None, 0

    return bucket.ask(ask, digest)


def _range(bucket: Bucket, key: str, digest: str, start: int, end: int) -> Bytes:
    import obstore

    return bucket.ask(lambda: obstore.get_range(bucket.client, key, start=start, end=end), digest)
