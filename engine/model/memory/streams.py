"""Writes into slots beside a running model: on CUDA a stream of their own with events, elsewhere nothing.

The host's counts say which slots have no batch left; a batch that left may still run on the device, so a write waits
for the event that it left behind, and a batch waits for that of the last write into its slots.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Stream:
    """The stream of a device that fills slots."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's
        self._written: dict[int, torch.cuda.Event] = {}
        self._used: dict[int, torch.cuda.Event] = {}

    @contextmanager
    def writing(self, slot: int) -> Iterator[None]:
        """Within, copies into the slot go on the side; the host goes on before they are done."""
        if self._stream is None:
            yield
            return
        used = self._used.pop(slot, None)
        with torch.cuda.stream(self._stream):
            if used is not None:
                self._stream.wait_event(used)
            yield
            self._written[slot] = self._stream.record_event()

    def begin(self, slots: Collection[int]) -> None:
        """Let the present stream wait for the writes into these slots."""
        if self._stream is None:
            return
        for slot in slots:
            event = self._written.get(slot)
            if event is not None:
                torch.cuda.current_stream(self._stream.device).wait_event(event)

    def end(self, slots: Collection[int]) -> None:
        """Remember what the present stream runs on these slots."""
        if self._stream is None:
            return
        event = torch.cuda.current_stream(self._stream.device).record_event()
        self._used.update(dict.fromkeys(slots, event))
