"""Files on their way in: copied into a scratch folder while they are hashed, durable before they get a name."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import CorruptError, IntakeError, UsageError
from registry.files import inplace, partsums
from registry.files.disk import CREATE, discard, opened, reaching, reading
from registry.files.partsums import Summing
from registry.files.transfer import CHUNK, copy_hashed, read_hashed
from registry.values.paths import path_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor, Future

    from registry.files.inplace import InPlace
    from registry.files.partsums import PartSums


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A copy in a staging folder; its bytes are those that `digest` was computed from. Or no copy: `left` is the file
    where it lies, and what it was when it was hashed.

    `syncing` is the fsync of a large file, which goes on while the copy is already being read; None once it is durable.
    `parts` are the sums of a large file's parts, where the staging makes them.
    """

    path: Path
    digest: str
    size: int
    syncing: Future[None] | None = None
    parts: PartSums | None = None
    left: InPlace | None = None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read it by; UnavailableError where a copy cannot be read, IntakeError where what was left in
        its place is not what it was.
        """
        with reaching(self.path), reading(self.path) if self.left is None else self.left.opened() as descriptor:
            yield descriptor

    def changed(self, subject: str, *, expected: str, actual: str) -> CorruptError | IntakeError:
        """What it means that other bytes are found here: a copy is ours to keep, what was left in its place is not."""
        if self.left is not None:
            return self.left.refusal()
        return CorruptError(subject, expected=expected, actual=actual)

    def settle(self) -> None:
        """Waits until the copy is durable; UnavailableError where it is not."""
        if self.syncing is not None:
            with reaching(self.path):
                self.syncing.result()


@dataclass(frozen=True, slots=True)
class Staging:
    """One scratch folder. Staged files keep their relative names, so the folder reads like the adapter it came from.

    `syncs` runs the fsync of large files; None where nothing staged needs to outlive the machine's power. `summed`: of
    large files the sums of their parts are made too, and they may be left where they are.
    """

    folder: Path
    syncs: Executor | None
    summed: bool = False

    def add(self, source: Path | bytes | int, *, name: str, place: Path | None = None) -> StagedFile:
        """Copies a regular file (a path, or an open descriptor) or some bytes in, hashing on the way. With `place`,
        where the descriptor's file lies, a large one is only hashed, and left there if the store needs no copy of it.

        UsageError for a name that leaves the folder or is taken; IntakeError for an unreadable source;
        UnavailableError where the copy cannot be written: then nothing of it is there.
        """
        if problem := path_problem(name):
            raise UsageError(f"{name[:120]!r} {problem}")
        target = self.folder / name
        if isinstance(source, Path):
            with _source(source) as descriptor:
                return self._fill(target, descriptor)
        if isinstance(source, int) and place is not None and (summing := self._summing(source)) is not None:
            return _left(source, place, summing)
        return self._fill(target, source)

    def _fill(self, target: Path, source: bytes | int) -> StagedFile:
        with reaching(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                raise UsageError(f"{target.relative_to(self.folder)} is staged already")
            try:
                return self._write(target, source)
            except BaseException:
                discard(target)
                raise

    def _write(self, target: Path, source: bytes | int) -> StagedFile:
        with opened(target, CREATE) as descriptor:
            os.fchmod(descriptor, 0o444)
            with nullcontext(source) if isinstance(source, int) else _memory(source) as origin:
                summing = self._summing(origin)
                content = copy_hashed(
                    origin, descriptor, durably=False, beside=None if summing is None else summing.update
                )
            if self.syncs is None:
                parts = None if summing is None else summing.done()
                return StagedFile(target, content.digest, content.size, parts=parts)
            if content.size < CHUNK:
                os.fsync(descriptor)
                return StagedFile(target, content.digest, content.size)
            syncing = self.syncs.submit(_sync, os.dup(descriptor))
        return StagedFile(target, content.digest, content.size, syncing)

    def _summing(self, origin: int) -> Summing | None:
        size = os.fstat(origin).st_size
        return Summing(size) if self.summed and size >= partsums.LARGE else None


def _left(source: int, place: Path, summing: Summing) -> StagedFile:
    left = inplace.found(source, place)
    content = read_hashed(source, beside=summing.update)
    left.require(source)
    return StagedFile(place, content.digest, content.size, parts=summing.done(), left=left)


def _sync(descriptor: int) -> None:
    # The descriptor that was written through: only it is sure to be told of a write that failed since.
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("staged")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _source(path: Path) -> Iterator[int]:
    """Only opening is the source's fault; what happens inside the block is not."""
    manager = reading(path)
    try:
        descriptor = manager.__enter__()
    except OSError as error:
        raise IntakeError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        yield descriptor
    finally:
        manager.__exit__(None, None, None)
