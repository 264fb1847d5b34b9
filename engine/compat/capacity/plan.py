"""How large a server's room for adapters must be: the smallest rank that holds them all, and the bytes it costs.

Pure arithmetic over facts; bytes are of one device without sharding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import nlargest
from math import prod
from typing import TYPE_CHECKING

from engine.compat.capacity.rooms import adapter_rooms, leaf
from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.compat.capacity.pools import Pool
    from engine.format.facts import AdapterFacts, BaseFacts, ModuleFacts

SERVED_BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number as engines serve it."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one adapter asks of a server: ranks by config key or module, layers, target names, bytes as stored, and
    elements of all its factors at their own ranks.
    """

    ref: str
    ranks: Mapping[str, int]
    modules: tuple[ModuleFacts, ...]
    targets: frozenset[str]
    stored_bytes: int
    numbers: int

    @property
    def rank(self) -> int:
        """The largest rank it asks for."""
        return max(self.ranks.values(), default=0)

    @property
    def where(self) -> str | None:
        """The key or module that asks for it."""
        return max(self.ranks, key=self.ranks.__getitem__, default=None)

    @property
    def rest(self) -> int:
        """The rank it would ask for if all that ask for the largest were gone."""
        return max((rank for rank in self.ranks.values() if rank < self.rank), default=0)


@dataclass(frozen=True, slots=True)
class Room:
    """What one adapter takes: bytes as stored, and as served at its own ranks, which is what the host keeps."""

    ref: str
    rank: int
    where: str | None
    stored_bytes: int
    served_bytes: int


@dataclass(frozen=True, slots=True)
class Forcing:
    """An adapter that no smaller rank would hold. `modules` are how many have that rank, `module` the first of them;
    `without` is the rank to start with if this adapter were not there, `without_modules` if only what asks for its
    largest rank were not; None where nothing would be left.
    """

    ref: str
    rank: int
    where: str | None
    module: str | None
    modules: int
    without: int | None
    without_modules: int | None


@dataclass(frozen=True, slots=True)
class Smaller:
    """The next smaller room: what it would be without all that force the rank up."""

    max_lora_rank: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for adapters. `slot_bytes` is what one adapter takes on the device whatever its own rank, `device_bytes` all
    slots, `host_bytes` the adapters kept beside them; `base_slot` says that one slot serves requests without adapter.
    `exact` is False where the base is not known, and the layers are those that the adapters have: then the bytes are
    the least it can be. `targets_slot_bytes` is a slot where only `targets` get room, for engines that can be told so.
    """

    max_lora_rank: int
    max_loras: int
    max_cpu_loras: int
    dtype: str
    slot_bytes: int
    device_bytes: int
    host_bytes: int
    exact: bool
    base_slot: bool
    layers: int
    targets: tuple[str, ...]
    targets_slot_bytes: int | None
    forced_by: tuple[Forcing, ...]
    without: Smaller | None
    adapters: tuple[Room, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person decides: how many adapters lie on the device, or how many bytes they may take, and the dtype."""

    dtype: str = "bfloat16"
    max_loras: int | None = None
    memory: int | None = None


def need_of(ref: str, facts: AdapterFacts, pool: Pool) -> Need:
    """What an adapter asks of that engine."""
    lora = facts.config.lora
    listed = lora.target_modules if lora is not None and isinstance(lora.target_modules, tuple) else ()
    names = {leaf(module.base_name) for module in facts.modules} | {leaf(name) for name in listed}
    stored = sum(info.size for info in facts.header.tensors.values())
    numbers = sum(prod(module.a_shape) + prod(module.b_shape) for module in facts.modules)
    return Need(ref, pool.asked(facts), facts.modules, frozenset(names), stored, numbers)


def plan_capacity(needs: Sequence[Need], pool: Pool, *, base: BaseFacts | None, wishes: Wishes) -> Capacity:
    """The smallest room that holds all the adapters, none of which may ask for more than the engine's largest rank.

    OptionError: no adapter, a dtype no engine serves, or memory for not even one slot.
    """
    if not needs:
        raise OptionError("no adapter to plan for")
    if wishes.dtype not in SERVED_BYTES:
        raise OptionError(f"dtype {wishes.dtype!r:.40}: expected one of {', '.join(SERVED_BYTES)}")
    targets = frozenset[str]().union(*(need.targets for need in needs))
    rooms, exact = _layers(needs, pool, base, targets)
    rank = _bucket(pool, max(need.rank for need in needs))
    size, width = SERVED_BYTES[wishes.dtype], sum(rooms.values())
    slot = rank * width * size
    slots = _slots(len(needs), slot, wishes, base_slot=pool.base_slot)
    adapters = tuple(Room(n.ref, n.rank, n.where, n.stored_bytes, n.numbers * size) for n in needs)
    kept = max(len(needs), slots - pool.base_slot)
    forcing, without = _forcing(needs, pool, rank)
    return Capacity(
        max_lora_rank=rank,
        max_loras=slots,
        max_cpu_loras=kept,
        dtype=wishes.dtype,
        slot_bytes=slot,
        device_bytes=slot * slots,
        host_bytes=sum(nlargest(kept, (room.served_bytes for room in adapters))),
        exact=exact,
        base_slot=pool.base_slot,
        layers=len(rooms),
        targets=tuple(sorted(targets)),
        targets_slot_bytes=rank * _named_width(rooms, pool, targets) * size if pool.over == "model" and exact else None,
        forced_by=forcing,
        without=None if without is None else Smaller(without, without * width * size),
        adapters=adapters,
    )


def _layers(
    needs: Iterable[Need], pool: Pool, base: BaseFacts | None, targets: frozenset[str]
) -> tuple[dict[str, int], bool]:
    """Width by layer, and whether that is all that gets a slot."""
    rooms = {} if base is None else pool.rooms(base, targets)
    if rooms:
        return rooms, True
    # Adapters of one training run share their modules: each tuple of them is looked at once.
    for modules in {id(need.modules): need.modules for need in needs}.values():
        for name, width in adapter_rooms(modules).items():
            rooms[name] = max(width, rooms.get(name, 0))
    return rooms, pool.over == "adapters"


def _named_width(rooms: Mapping[str, int], pool: Pool, targets: Iterable[str]) -> int:
    named = pool.spread(targets)
    return sum(width for name, width in rooms.items() if leaf(name) in named)


def _slots(adapters: int, slot: int, wishes: Wishes, *, base_slot: bool) -> int:
    """As many as are wanted, else as fit, else all; the base's own included where it takes one."""
    wanted = adapters + base_slot if wishes.max_loras is None else wishes.max_loras + base_slot
    if wishes.memory is None:
        return wanted
    fit = wishes.memory // max(slot, 1)
    if fit < 1 + base_slot:
        least = slot * (1 + base_slot)
        raise OptionError(f"memory of {wishes.memory} bytes: expected at least {least}, room for one adapter")
    return min(wanted, fit)


def _forcing(needs: Sequence[Need], pool: Pool, rank: int) -> tuple[tuple[Forcing, ...], int | None]:
    """Those that the next smaller bucket would not hold, and the bucket without them; nobody forces the smallest."""
    if rank == _bucket(pool, 0):
        return (), None
    forcing = [need for need in needs if _bucket(pool, need.rank) == rank]
    others = max((_bucket(pool, need.rank) for need in needs if _bucket(pool, need.rank) < rank), default=None)
    alone = len(forcing) == 1
    return tuple(_forced(need, pool, others=others, rank=None if alone else rank) for need in forcing), others


def _forced(need: Need, pool: Pool, *, others: int | None, rank: int | None) -> Forcing:
    """`rank` is what stays without this one because of others that force it too, None where there are none."""
    largest = [module.name for module in need.modules if module.rank == need.rank]
    rest = [_bucket(pool, need.rest)] if need.rest else []
    left = max([*rest, *([] if others is None else [others])], default=None)
    return Forcing(
        ref=need.ref,
        rank=need.rank,
        where=need.where,
        module=min(largest, default=None),
        modules=len(largest),
        without=others if rank is None else rank,
        without_modules=left if rank is None else rank,
    )


def _bucket(pool: Pool, rank: int) -> int:
    found = pool.bucket(rank)
    if found is None:
        raise OptionError(f"rank {rank}: {pool.engine} can be started with {(pool.buckets or (0,))[-1]} at most")
    return found
