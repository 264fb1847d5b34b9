"""Bytes from one descriptor to another or to nowhere, hashed on the way: what is hashed is what was written."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

CHUNK = 4 << 20
_BUFFERS = 4
_FLUSH_EVERY = 64 << 20


class Content(NamedTuple):
    """What some bytes are."""

    digest: str
    size: int


def hash_file(source: int) -> Content:
    """Digest and size of everything from the descriptor's position to the end."""
    with os.fdopen(os.dup(source), "rb", buffering=0) as file:
        start = file.tell()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Content(f"sha256:{digest}", file.tell() - start)


def read_hashed(source: int, *, beside: Callable[[memoryview], None]) -> Content:
    """As `copy_hashed`, but nothing is written: `beside` gets every chunk while they are hashed."""
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as second:
        return _Pipeline(hashing, None, partial(_submit, second, beside)).run(source, _read(source, bytearray(CHUNK)))


def copy_hashed(
    source: int, target: int, *, durably: bool = True, beside: Callable[[memoryview], None] | None = None
) -> Content:
    """Copies all bytes and, if `durably`, fsyncs `target`. OSError where that fails; nothing is retried then.

    For files over one chunk, hashing and writing back to the disk run beside the copy. `beside` gets every chunk too,
    in order, in a thread of its own; all but the last are of CHUNK bytes.
    """
    first = _read(source, bytearray(CHUNK))
    if len(first) < CHUNK:
        if beside is not None:
            beside(first)
        write_all(target, first)
        if durably:
            os.fsync(target)
        return Content(f"sha256:{hashlib.sha256(first).hexdigest()}", len(first))
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as flushing, ThreadPoolExecutor(1) as third:
        more = None if beside is None else partial(_submit, third, beside)
        content = _Pipeline(hashing, _Writer(target, flushing), more).run(source, first)
    if durably:
        os.fsync(target)
    return content


class _Pipeline:
    """A ring of buffers between the reading thread, the hashing thread, a writer's and whoever is beside."""

    def __init__(
        self,
        hashing: ThreadPoolExecutor,
        writer: _Writer | None,
        beside: Callable[[memoryview], Future[None]] | None,
    ) -> None:
        self.hash: _Hash = hashlib.sha256()
        self.hashing = hashing
        self.writer = writer
        self.beside = beside
        self.size = 0

    def run(self, source: int, first: memoryview) -> Content:
        ring = [bytearray(CHUNK) for _ in range(_BUFFERS)]
        busy: list[list[Future[None]]] = [[] for _ in ring]
        chunk, turn = first, 0
        while chunk:
            busy[turn] = [self.hashing.submit(self.hash.update, chunk)]
            if self.beside is not None:
                busy[turn].append(self.beside(chunk))
            if self.writer is not None:
                self.writer.put(chunk)
            self.size += len(chunk)
            turn = (turn + 1) % _BUFFERS
            for waiting in busy[turn]:
                waiting.result()
            chunk = _read(source, ring[turn])
        for waiting in chain.from_iterable(busy):
            waiting.result()
        if self.writer is not None:
            self.writer.raise_flush_error()
        return Content(f"sha256:{self.hash.hexdigest()}", self.size)


class _Writer:
    """Writes chunks, and what was written back to the disk in a thread of its own."""

    def __init__(self, target: int, flushing: ThreadPoolExecutor) -> None:
        self.target = target
        self.flushing = flushing
        self.flushed: Future[None] | None = None
        self.unflushed = 0

    def put(self, chunk: memoryview) -> None:
        write_all(self.target, chunk)
        self.unflushed += len(chunk)
        if self.unflushed >= _FLUSH_EVERY and (self.flushed is None or self.flushed.done()):
            self.raise_flush_error()
            self.flushed = self.flushing.submit(os.fdatasync, self.target)
            self.unflushed = 0

    def raise_flush_error(self) -> None:
        # A failed flush may mark its pages clean, so a later fsync can succeed over lost bytes: the first error counts.
        if self.flushed is not None:
            self.flushed.result()


def _submit(executor: Executor, work: Callable[[memoryview], None], chunk: memoryview) -> Future[None]:
    return executor.submit(work, chunk)


def _read(source: int, buffer: bytearray) -> memoryview:
    """As much as fits; short only at the end of the file."""
    view = memoryview(buffer)
    filled = 0
    while filled < len(buffer) and (count := os.readv(source, [view[filled:]])):
        filled += count
    return view[:filled]


def write_all(target: int, chunk: memoryview) -> None:
    """Every byte, however many calls that takes."""
    while chunk:
        chunk = chunk[os.write(target, chunk) :]
