"""Counts the bytes of one download while they come: a server cannot send for ever, and a person sees how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from registry.errors import CorruptError, TransientError

if TYPE_CHECKING:
    from types import TracebackType

    from registry.hub.listing import HubFile
    from registry.values.progress import Progress

_REPEATS = 4  # times the file's size that may be sent in all, because interrupted downloads start again


def meter(file: HubFile, progress: Progress, label: str) -> type:
    """A class that the library uses as its progress bar for this file. Its `update` raises CorruptError once more than
    the listed size came, and TransientError where the server keeps starting over.
    """

    class Meter:
        def __init__(self, *_args: Any, initial: int = 0, **_options: Any) -> None:
            self.now = self.sent = initial

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            self.now += int(count or 0)
            self.sent += max(0, int(count or 0))
            if self.now > file.size:
                raise CorruptError(file.path, expected=f"{file.size} bytes", actual="more")
            if self.sent > _REPEATS * (file.size + 1):
                raise TransientError(f"{file.path}: the Hub breaks off each time")
            progress(label, self.now, file.size)

        def close(self) -> None:
            pass

        set_description = refresh = set_postfix_str = lambda *_args, **_options: None

    return Meter
