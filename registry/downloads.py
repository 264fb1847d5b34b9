"""An object's bytes come back: ranges fetched beside each other, handed on in order, hashed on the way."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from registry.bucket import refused_with
from registry.transfer import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from obstore import Bytes

    from registry.bucket import Bucket

RANGE = 8 << 20
_STREAMS = 4


def fetch(bucket: Bucket, key: str, digest: str, *, write: Callable[[Bytes], object] | None = None) -> Content:
    """Reads all of an object, `write` getting its bytes in order, and says what was read. The caller compares that with
    `digest`, which only names the blob in errors.
    """
    hashed = hashlib.sha256()
    size = 0
    with ThreadPoolExecutor(1) as hashing:
        pending: Future[None] | None = None
        for chunk in _chunks(bucket, key, digest):
            if pending is not None:
                pending.result()
            pending = hashing.submit(hashed.update, chunk)
            size += len(chunk)
            if write is not None:
                write(chunk)
        if pending is not None:
            pending.result()
    return Content(f"sha256:{hashed.hexdigest()}", size)


def _chunks(bucket: Bucket, key: str, digest: str) -> Iterator[Bytes]:
    """The object in ranges, a few of them asked for ahead."""
    first, size = _first(bucket, key, digest)
    if first is None:
        return
    starts = iter(range(len(first), size, RANGE))
    with ThreadPoolExecutor(_STREAMS) as streams:
        ahead: deque[Future[Bytes]] = deque()

        def ask() -> None:
            for start in starts:
                end = min(start + RANGE, size)
                ahead.append(streams.submit(_range, bucket, key, digest, start, end))
                return

        for _ in range(_STREAMS):
            ask()
        yield first
        while ahead:
            chunk = ahead.popleft().result()
            ask()
            yield chunk


def _first(bucket: Bucket, key: str, digest: str) -> tuple[Bytes | None, int]:
    """The first range and the object's size, in one request; None for an object without bytes."""
    import obstore
    from obstore.exceptions import GenericError

    with bucket.asking(digest):
        try:
            answer = obstore.get(bucket.client, key, options={"range": (0, RANGE)})
            return answer.bytes(), answer.meta["size"]
        except GenericError as error:
            if refused_with(error) != 416:  # there is no first byte to ask for
                raise
            return None, 0


def _range(bucket: Bucket, key: str, digest: str, start: int, end: int) -> Bytes:
    import obstore

    with bucket.asking(digest):
        return obstore.get_range(bucket.client, key, start=start, end=end)
