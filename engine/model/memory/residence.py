"""The adapters of a model: all of them on the host, some of them in slots on its devices, all in one layout."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import InUseError, OptionError, SlotsFullError, UnknownAdapterError
from engine.model.fitting.fit import LARGEST, refuse_ranks
from engine.model.fitting.fitted import Fitted
from engine.model.memory.growth import bind_sites, filled_arena, sealed_layout, wider_layout
from engine.model.memory.hostcache import HostCache
from engine.model.memory.image import empty_image, relaid
from engine.model.memory.leaves import Leaves
from engine.model.memory.moving import refuse_replaced
from engine.model.memory.places import device_of
from engine.model.memory.slots import Slots
from engine.model.memory.source import Source, read_again
from engine.model.memory.staged import Loaded, Staged, Swapped
from engine.model.sites.replication import Replication, differing, ranges_of, replication_for
from engine.model.sites.siting import make_site
from engine.model.weights.merging import Addition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from engine.model.batches.switch import Switch
    from engine.model.fitting.fitted import Wants
    from engine.model.memory.arena import Arena
    from engine.model.memory.given import Given
    from engine.model.memory.image import Image
    from engine.model.memory.layout import Layout
    from engine.model.memory.room import Room
    from engine.model.sites.site import Site


class Residence:
    """Keeps the loaded adapters, their images, their slots and the sites of one model in step.

    `holders` says whose numbers lie in a slot: name, version and factor, also after the name went elsewhere. No method
    looks whether a runtime is merged; the runtime does, and holds its lock around every method that changes anything.
    """

    def __init__(self, model: nn.Module, switch: Switch, room: Room) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.sites: dict[str, Site] = {}
        self.slots = Slots(room.slots)
        self.holders: dict[int, tuple[str, int, float]] = {}
        self.images = HostCache(room.host_bytes)
        self.modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self.replication: Replication | None = None
        self.arena: Arena | None = None
        self.sealed = False
        self.leaves = Leaves()
        self._model = model
        self._switch = switch
        self._room = room
        self._versions = 0
        self._alike: Fitted | None = None

    def get(self, name: str) -> Loaded:
        """The adapter of exactly this name. Raises UnknownAdapterError."""
        if name not in self.loaded:
            raise UnknownAdapterError(name, tuple(self.loaded))
        return self.loaded[name]

    def stage(self, given: Given) -> Staged:
        """Read the adapter and look at everything of it, without a change.

        Raises RefusedError with all that does not fit, UnreadableError, OutOfRoomError, RuntimeStateError, SealedError.
        """
        alike = self._alike
        facts = given.facts(alike.facts if alike else None)
        replication = replication_for(facts, self._model, self.replication, fixed=bool(self.loaded))
        modules = replication.modules if replication else self.modules
        # Not where there are none: any two empty tuples are the same object. Nor beside a table, which is a part only
        # where its numbers are not the base's.
        known = facts.modules and "embedding" not in facts.others.values()
        same = alike and alike.modules is modules and alike.swap_class == given.swap_class
        if alike and known and same and alike.facts.modules is facts.modules:
            parts, wants = alike.parts, alike.wants
        else:
            parts, wants = given.fit(facts, modules, self._room.target_rank)
        if replication is self.replication:
            refuse_replaced(self._model, parts)
        refuse_ranks(parts, self._room.target_rank)
        before = self.arena.layout if self.arena and modules is self.modules else None
        layout = self._layout_with(wants, modules)
        image, mark = given.image(facts, parts, layout, self._room.dtype, pinned=self._pinned)
        self._alike = Fitted(facts, modules, parts, wants, before, layout, given.swap_class)
        return Staged(Source(facts, layout, mark, given.again()), parts, image, wants, replication)

    def add(self, name: str, staged: Staged, keep: Collection[str], *, pinned: bool = False) -> None:
        """Keep the adapter under a name that is free, in a slot where one is free; to be pinned, in place of another
        than those in `keep`. Raises OutOfRoomError, SlotsFullError, SealedError.
        """
        slot = self.slots.choose(self._kept(keep)) if pinned else self.slots.free()
        with self._repeated(staged):
            self._grow(staged)
            image = self._fitting(staged.image) if slot is not None else staged.image
        loaded = self._numbered(Loaded(staged.source, staged.parts, 0, pinned=pinned))
        if slot is not None:
            self._put(name, loaded, image, slot)
        self._keep(name, loaded, staged.image)

    def replace(self, name: str, staged: Staged, keep: Collection[str]) -> Swapped:
        """Put another adapter under a name, in one copy; the name keeps its factor and its pin.

        Where the name has a slot, the copy goes into a free one, else into its own where nobody runs on it, else into
        that of an adapter not in `keep`. Raises OutOfRoomError, SlotsFullError, SourceGoneError.
        """
        old = self.get(name)
        self.leaves.refuse(name)
        self._refuse_replication(staged)
        before = self.image(name)
        if self.slots.peek(name) is not None:
            self.slots.choose(self._kept(keep), own=name)
        self._grow(staged)
        new = self._numbered(Loaded(staged.source, staged.parts, 0, old.factor, old.pinned))
        self._exchange(name, new, staged.image, keep)
        return Swapped(name, new.version, old, before)

    def bring_back(self, swapped: Swapped, keep: Collection[str]) -> None:
        """Undo a swap: the same numbers under the same version. Raises as `replace`, InUseError where the name was
        swapped again since.
        """
        if self.get(swapped.name).version != swapped.version:
            raise InUseError(swapped.name, "not what that swap left there: it was swapped again or loaded anew since")
        self.leaves.refuse(swapped.name)
        self._exchange(swapped.name, swapped.before, swapped.image, keep)

    def bring_in(self, name: str, keep: Collection[str] = ()) -> int:
        """The adapter's slot, filled where it was not, in place of one that is neither pinned nor to be kept.

        Raises UnknownAdapterError, SlotsFullError, SourceGoneError.
        """
        return self.bring_all_in((name,), keep)[0]

    def bring_all_in(self, names: Sequence[str], keep: Collection[str] = ()) -> list[int]:
        """The slots of several adapters that are to lie in slots together; all of them or, with an error, no change.

        Raises UnknownAdapterError, SlotsFullError, SourceGoneError.
        """
        kept = self._kept(keep).union(names)
        missing = [name for name in dict.fromkeys(names) if self.get(name) and self.slots.peek(name) is None]
        if not self.slots.has_room(len(missing), kept):
            raise SlotsFullError(self.slots.count)
        for name in filter(self.leaves.__contains__, names):
            self.leaves.derive_again(name, self.loaded[name], self.sites)
        images = {name: self._fitting(self.image(name)) for name in missing}
        for name, image in images.items():
            self._put(name, self.loaded[name], image, self.slots.choose(kept))
        return [self.slots.touch(name) for name in names]

    def image(self, name: str) -> Image:
        """The adapter's image, read again where it was dropped. Raises SourceGoneError where its files vanished or hold
        something else.
        """
        loaded = self.get(name)
        if name in self.leaves:
            empty = empty_image(self.the_arena.layout, self._room.dtype, pinned=self._pinned)
            return self.leaves.read_back(name, loaded, self.sites, empty)
        image = self.images.get(loaded.version)
        if image is None:
            image = read_again(loaded.source, loaded.parts, self._room.dtype, pinned=self._pinned)
            self.images.put(loaded.version, image, keep=self._undroppable())
        image.check()
        return image

    def addition(self, name: str, factor: float) -> Addition:
        """The adapter as something to merge into the weights. Raises UnknownAdapterError."""
        loaded = self.get(name)
        return Addition(name, {part.path: part for part in loaded.parts}, self.image(name), factor * loaded.factor)

    def pin(self, name: str, *, pinned: bool, keep: Collection[str] = ()) -> None:
        """Keep the adapter in its slot and its image on the host whatever else is named, or no longer.

        Raises UnknownAdapterError, SlotsFullError.
        """
        if pinned:
            self.bring_in(name, keep)
        self.loaded[name] = replace(self.get(name), pinned=pinned)
        self.images.shrink(self._undroppable())

    def refuse_replaced(self, names: Iterable[str]) -> None:
        """Raise RuntimeStateError where the model has other modules by now than those the adapters are on."""
        for name in names:
            refuse_replaced(self._model, self.get(name).parts)

    def refuse_full(self, name: str, *, pinned: bool, keep: Collection[str]) -> None:
        """Raise SlotsFullError where the adapter is to be pinned and finds no slot."""
        if pinned and self.slots.peek(name) is None:
            self.slots.choose(self._kept(keep))

    def set_factor(self, name: str, factor: float, keep: Collection[str]) -> None:
        """Multiply the adapter's own scales by `factor` for all that begins from now on.

        Where a batch runs on its slot, that keeps the former. Raises UnknownAdapterError, SlotsFullError, OptionError.
        """
        loaded = replace(self.get(name), factor=factor)
        if any(abs(part.scaling * factor) > LARGEST for part in loaded.parts):
            raise OptionError(f"scale of {name!r}: {factor:g} times its own scale is more than float32 holds")
        slot = self.slots.peek(name)
        if slot is not None and self.slots.running(slot):
            self.leaves.refuse(name)
            image = self.image(name)
            self._put(name, loaded, self._fitting(image), self.slots.choose(self._kept(keep), own=name))
        elif slot is not None:
            self.the_arena.write_scales(slot, loaded.scales(self.the_arena.layout), factor)
            self.holders[slot] = (name, loaded.version, factor)
        self.loaded[name] = loaded

    def parameters(self, name: str, keep: Collection[str]) -> dict[str, nn.Parameter]:
        """The adapter's numbers as parameters that take gradients, by the names of its tensors; it keeps its slot.

        Raises UnknownAdapterError, SlotsFullError, InUseError where they are parameters already.
        """
        self.leaves.refuse(name)
        self.pin(name, pinned=True, keep=keep)
        return self.leaves.open(name, self.loaded[name], self.sites, self.bring_in(name, keep))

    def settle(self, name: str) -> None:
        """Keep what the parameters hold now under a new version; they are none any more. Raises UnknownAdapterError."""
        loaded = self.get(name)
        if name in self.leaves:
            image = self.image(name)
            slot = self.leaves.close(name, loaded, self.sites)
            self.images.remove(loaded.version)
            new = self._numbered(loaded)
            self.holders[slot] = (name, new.version, new.factor)
            self._keep(name, new, image)

    def forget(self, name: str) -> None:
        """Drop the adapter; its slot is free again. Raises UnknownAdapterError, InUseError where a batch runs on it."""
        loaded = self.get(name)
        self.leaves.refuse(name)
        slot = self.slots.peek(name)
        if slot is not None and self.slots.running(slot):
            raise InUseError(name, "in a batch that runs now; wait for its end")
        self.slots.release(name)
        self.images.remove(loaded.version)
        del self.loaded[name]
        if not self.loaded and self.replication:
            self.clear()

    def clear(self) -> None:
        """Take every site off the model and drop every adapter; repeated layers are single again."""
        for site in self.sites.values():
            site.detach()
        self.sites.clear()
        self.loaded.clear()
        self.holders.clear()
        self.leaves = Leaves()
        self.slots = Slots(self._room.slots)
        self.images = HostCache(self._room.host_bytes)
        self.arena = None
        if self.replication:
            self.replication.remove()
            self.replication = None
            self.modules = dict(self._model.named_modules())

    def begin(self, slots: Collection[int]) -> None:
        """A forward begins on these slots in this thread."""
        if self.arena is not None and slots:
            self.arena.begin(slots)

    def end(self, slots: Collection[int]) -> None:
        """That forward has been started whole."""
        if self.arena is not None and slots:
            self.arena.end(slots)

    @property
    def the_arena(self) -> Arena:
        """The slots; there are some once an adapter was loaded."""
        if self.arena is None:
            raise AssertionError("an adapter is loaded, so there is an arena")
        return self.arena

    @property
    def _pinned(self) -> bool:
        return any(device_of(module).type == "cuda" for module in list(self.modules.values())[:1])

    def _numbered(self, loaded: Loaded) -> Loaded:
        self._versions += 1
        return replace(loaded, version=self._versions)

    def _keep(self, name: str, loaded: Loaded, image: Image) -> None:
        self.loaded[name] = loaded
        self.images.put(loaded.version, image, keep=self._undroppable())

    def _exchange(self, name: str, new: Loaded, image: Image, keep: Collection[str]) -> None:
        old = self.loaded[name]
        if self.slots.peek(name) is not None:
            slot = self.slots.choose(self._kept(keep), own=name)
            image = self._fitting(image)
            self._put(name, new, image, slot)
        self._keep(name, new, image)
        self.images.remove(old.version)

    def _put(self, name: str, loaded: Loaded, image: Image, slot: int) -> None:
        """One copy of a fitting image into a slot that nobody runs on, then the flip of the name."""
        arena, layout = self.the_arena, self.the_arena.layout
        arena.put(slot, image.values, loaded.scales(layout), loaded.factor, ranks=loaded.ranks(layout))
        arena.begin((slot,))
        self.holders[slot] = (name, loaded.version, loaded.factor)
        self.slots.assign(name, slot)

    def _fitting(self, image: Image) -> Image:
        """The image in the present layout. Raises OutOfRoomError, SourceGoneError."""
        image.check()
        layout = self.the_arena.layout
        return image if image.layout is layout else relaid(image, layout, pinned=self._pinned)

    def _kept(self, keep: Collection[str]) -> frozenset[str]:
        return frozenset(keep) | {name for name, loaded in self.loaded.items() if loaded.pinned}

    def _undroppable(self) -> frozenset[int]:
        return frozenset(loaded.version for loaded in self.loaded.values() if loaded.pinned)

    def _refuse_replication(self, staged: Staged) -> None:
        if staged.replication is not self.replication:
            raise differing(ranges_of(staged.replication), ranges_of(self.replication))

    @contextmanager
    def _repeated(self, staged: Staged) -> Iterator[None]:
        """Repeat the layers as the staged adapter asks, where no adapter is loaded yet; single again with an error."""
        if staged.replication is None or staged.replication is self.replication or self.loaded:
            self._refuse_replication(staged)
            yield
            return
        self.clear()
        staged.replication.install()
        self.replication, self.modules = staged.replication, staged.replication.modules
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def _layout_with(self, wants: Wants, modules: Mapping[str, nn.Module]) -> Layout:
        """The layout that also holds what is wanted: the present one where it does already. Raises SealedError."""
        present = self.arena.layout if self.arena and modules is self.modules else None
        return sealed_layout(wants, present) if self.sealed else wider_layout(wants, modules, present, self._alike)

    def _grow(self, staged: Staged) -> None:
        """Move to a layout that holds the staged adapter too, where the present one does not."""
        layout = self._layout_with(staged.wants, self.modules)
        if self.arena and layout is self.arena.layout:
            return
        self.leaves.refuse()
        arena = filled_arena(layout, self.arena, self._room)
        bind_sites(arena, self.sites, lambda path, want: make_site(path, want, self.modules, self._switch))
        self.arena = arena
