"""What a runtime says about itself, and what puts a former state back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.model.residence import Residence


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter: its folder, the number of its load, its slot (None: waits on the host or in its folder), whether its
    image is on the host, its factor, and whether it is pinned or in a batch that runs.
    """

    name: str
    path: Path
    version: int
    slot: int | None
    on_host: bool
    factor: float
    pinned: bool
    running: bool


@dataclass(frozen=True, slots=True)
class Status:
    """All adapters, what is on, and the bytes of images on the host and of slots on the devices."""

    adapters: tuple[AdapterStatus, ...]
    active: tuple[str, ...]
    merged: tuple[str, ...]
    enabled: bool
    sealed: bool
    slots: int
    host_bytes: int
    device_bytes: int


def status_of(residence: Residence, *, active: Sequence[str], merged: Sequence[str], enabled: bool) -> Status:
    """The state of a residence as one value."""
    return Status(
        adapters=tuple(_adapter(residence, name) for name in residence.loaded),
        active=tuple(active),
        merged=tuple(merged),
        enabled=enabled,
        sealed=residence.sealed,
        slots=residence.slots.count,
        host_bytes=residence.images.size,
        device_bytes=residence.arena.nbytes if residence.arena else 0,
    )


def _adapter(residence: Residence, name: str) -> AdapterStatus:
    loaded = residence.loaded[name]
    slot = residence.slots.peek(name)
    return AdapterStatus(
        name=name,
        path=loaded.facts.path,
        version=loaded.version,
        slot=slot,
        on_host=loaded.version in residence.images,
        factor=loaded.factor,
        pinned=loaded.pinned,
        running=slot is not None and residence.slots.running(slot),
    )


class Restored:
    """A change that was made; used in a `with`, what was before comes back at its end, also within another such."""

    def __init__(self, restore: Callable[[], None]) -> None:
        self._restore = restore

    def __enter__(self) -> Self:
        """The change stands already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Puts back what was before."""
        self._restore()
