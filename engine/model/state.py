"""What a runtime says about itself, and what puts a former state back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.model.sites.replication import ranges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from engine.model.memory.residence import Residence


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter: its folder, `peft_type`, largest rank (None: it has no factors), the number of its load, its slot
    (None: waits on the host or in its folder), whether its image is on the host, its factor, whether it is pinned or in
    a batch that runs, and `nbytes` of its own tensors in its file.
    """

    name: str
    path: Path
    peft_type: str
    rank: int | None
    version: int
    slot: int | None
    on_host: bool
    factor: float
    pinned: bool
    running: bool
    nbytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """All adapters, what is on, and the bytes of images on the host, of one slot, and of all slots on the devices.

    `sites` counts the places on the model that have room for adapters, by kind; `layer_replication` are the ranges of
    layers that are repeated.
    """

    adapters: tuple[AdapterStatus, ...]
    active: tuple[str, ...]
    merged: tuple[str, ...]
    enabled: bool
    sealed: bool
    slots: int
    host_bytes: int
    slot_bytes: int
    device_bytes: int
    sites: Mapping[str, int]
    layer_replication: tuple[tuple[int, int], ...] | None


def status_of(residence: Residence, *, active: Sequence[str], merged: Sequence[str], enabled: bool) -> Status:
    """The state of a residence as one value."""
    device_bytes = residence.arena.nbytes if residence.arena else 0
    return Status(
        adapters=tuple(_adapter(residence, name) for name in residence.loaded),
        active=tuple(active),
        merged=tuple(merged),
        enabled=enabled,
        sealed=residence.sealed,
        slots=residence.slots.count,
        host_bytes=residence.images.size,
        slot_bytes=device_bytes // (residence.slots.count + 1),
        device_bytes=device_bytes,
        sites=dict(sorted(Counter(site.kind.name for site in residence.sites.values()).items())),
        layer_replication=ranges_of(residence.replication),
    )


def _adapter(residence: Residence, name: str) -> AdapterStatus:
    loaded = residence.loaded[name]
    slot = residence.slots.peek(name)
    return AdapterStatus(
        name=name,
        path=loaded.facts.path,
        peft_type=loaded.facts.config.peft_type,
        rank=max((part.rank for part in loaded.parts if part.rank), default=None),
        version=loaded.version,
        slot=slot,
        on_host=loaded.version in residence.images,
        factor=loaded.factor,
        pinned=loaded.pinned,
        running=slot is not None and residence.slots.running(slot),
        nbytes=sum(tensor.size for tensor in loaded.facts.header.tensors.values()),
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
