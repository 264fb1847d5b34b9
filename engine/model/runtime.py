"""Adapters on a live model: the one object that loads, switches, mixes and takes them away."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import AlreadyLoadedError, BatchError, InUseError, MergedError, OptionError, SealedError
from engine.model.batches.entry import Entry
from engine.model.batches.rows import check_generation, check_rows
from engine.model.batches.selection import Selection
from engine.model.batches.switch import Switch
from engine.model.kinds.saved import refuse_clashes
from engine.model.memory.given import given_at
from engine.model.memory.moving import follow
from engine.model.memory.residence import Residence
from engine.model.memory.room import Room, widest_of
from engine.model.memory.staged import Staged
from engine.model.names import check_name
from engine.model.state import Restored, Status, status_of
from engine.model.weights.export import stored_tensors, write_adapter
from engine.model.weights.merging import Merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor, nn

    from engine.model.memory.staged import Swapped
    from engine.model.weights.merging import MergeReport


class Runtime:
    """Any number of LoRA adapters on one model.

    `slots` adapters lie on the device at once; the others wait on the host and come in when they are named, in place of
    the one unused for longest. `target_rank` fixes the rank that every module's slot has room for; without it the room
    grows with the adapters. `dtype` is that of the factors and of the arithmetic with them: without it float32, or
    float64 for a model that has such parameters. `host_bytes` bounds the images on the host: one that was dropped is
    read again from its folder when it is named.

    What is on is the same for every thread, except within `batch`. A forward that runs keeps the adapters that were on
    when it began, whatever is activated or swapped meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        slots: int = 8,
        target_rank: int | None = None,
        dtype: torch.dtype | None = None,
        host_bytes: int | None = None,
    ) -> None:
        self.model = model
        self._lock = threading.RLock()
        self._switch = Switch()
        self._residence = Residence(
            model, self._switch, Room(slots, target_rank, dtype or widest_of(model), host_bytes)
        )
        self._selection = Selection(self._lock, self._switch, self._residence)
        self._entry: Entry | None = None
        self._merge: Merge | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded, in the order of loading."""
        return tuple(self._residence.loaded)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the adapters that are on, in the order in which they add up."""
        return self._selection.active

    @property
    def enabled(self) -> bool:
        """Whether adapters act at all; False after `disable`."""
        return self._selection.enabled

    @property
    def merged(self) -> tuple[str, ...]:
        """The names of the adapters that lie in the weights."""
        return self._merge.names if self._merge else ()

    def status(self) -> Status:
        """Everything about the adapters, their slots and the memory they take, as one value."""
        with self._lock:
            return status_of(self._residence, active=self.active, merged=self.merged, enabled=self.enabled)

    def load(self, name: str, path: Path | str | Staged, *, pinned: bool = False, replace: bool = False) -> None:
        """Read the adapter in the folder `path`, hold it against the model and take it in under `name`; of a file of
        hot-swap images the only one, or that of this name.

        `pinned` keeps it in a slot. A name that is loaded already is an AlreadyLoadedError, unless `replace`, which
        swaps. Raises RefusedError with everything that does not fit; a call that fails changes nothing.
        """
        check_name(name)
        self._refuse_merged(f"cannot load {name!r}")
        if name in self._residence.loaded and not replace:
            raise AlreadyLoadedError(name)
        staged = path if isinstance(path, Staged) else self._residence.stage(given_at(Path(path), called=name))
        with self._lock:
            self._refuse_merged(f"cannot load {name!r}")
            if name not in self._residence.loaded:
                self._residence.add(name, staged, self.active, pinned=pinned)
                self._enter()
            elif replace:
                self._residence.refuse_full(name, pinned=pinned, keep=self.active)
                self._swap(name, staged)
                self._residence.pin(name, pinned=pinned, keep=self.active)
            else:
                raise AlreadyLoadedError(name)

    def prepare(self, path: Path | str, *, image: str | None = None, verified: bool = False) -> Staged:
        """Read the adapter in the folder and look at everything of it, ready for `load` or `swap` in one copy; of a
        file of hot-swap images that named `image`, or the only one. `verified`: its bytes were looked at already.

        Changes nothing; other threads go on meanwhile. Raises RefusedError with everything that does not fit,
        WrongBytesError where an image is not what was written.
        """
        return self._residence.stage(given_at(Path(path), image=image, verified=verified))

    def swap(self, name: str, path: Path | str | Staged) -> Swapped:
        """Put the adapter in the folder in place of the one loaded under `name`, at once for all that begins after.

        Batches that run keep the former numbers to their end; every other adapter keeps its bits; the name keeps its
        factor and its pin. The value given back undoes it. Raises as `load`, and MergedError; then nothing is changed.
        """
        self._refuse_merged(f"cannot swap {name!r}")
        self._residence.get(name)
        staged = path if isinstance(path, Staged) else self._residence.stage(given_at(Path(path), called=name))
        with self._lock:
            self._refuse_merged(f"cannot swap {name!r}")
            return self._swap(name, staged)

    def undo(self, swapped: Swapped) -> None:
        """Bring back what a swap replaced, bit by bit. Raises InUseError where the name was swapped again since."""
        with self._lock:
            self._refuse_merged(f"cannot undo the swap of {swapped.name!r}")
            self._residence.bring_back(swapped, self.active)
            self._selection.apply()

    def unload(self, name: str) -> None:
        """Forget the adapter; its slot is free again.

        Raises UnknownAdapterError; MergedError; InUseError where it is active, pinned or in a batch that runs.
        """
        with self._lock:
            loaded = self._residence.get(name)
            if name in self.merged:
                raise MergedError(f"cannot unload {name!r}", self.merged)
            if name in self.active:
                raise InUseError(name, "active; activate another or none first")
            if loaded.pinned:
                raise InUseError(name, "pinned; unpin it first")
            self._residence.forget(name)

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors by the names that PEFT stores them under, as copies on the host in the dtypes of its
        files. Raises UnknownAdapterError, SourceGoneError.
        """
        with self._lock:
            return self._stored(name)

    def save(self, name: str, folder: Path | str) -> None:
        """Write the adapter as PEFT stores it into a new folder, as it is in memory: at its own ranks, without the
        factor of `set_scale`. Raises UnknownAdapterError, SourceGoneError, DestinationError.
        """
        with self._lock:
            tensors, loaded = self._stored(name), self._residence.get(name)
        write_adapter(loaded, tensors, Path(folder))

    def _stored(self, name: str) -> dict[str, Tensor]:
        residence = self._residence
        return stored_tensors(residence.get(name), residence.image(name), residence.modules)

    def follow(self) -> None:
        """After `model.to(device)`: take the adapters to where the modules compute now. `model.to(dtype)` needs
        nothing: factors keep their dtype, results are rounded to the layers'.

        Raises InUseError, OutOfRoomError, SealedError, MergedError.
        """
        with self._lock:
            self._refuse_merged("cannot follow the model")
            if self._residence.sealed:
                raise SealedError("the model was moved")
            self._selection.runs.refuse("cannot follow the model")
            follow(self._residence)

    def pin(self, name: str) -> None:
        """Keep the adapter in a slot and its image on the host, whatever else is named."""
        with self._lock:
            self._residence.pin(name, pinned=True, keep=self.active)

    def unpin(self, name: str) -> None:
        """Let the adapter's slot go to others again when it is the one unused for longest."""
        with self._lock:
            self._residence.pin(name, pinned=False)

    def set_scale(self, name: str, factor: float) -> None:
        """Multiply what the adapter adds by `factor`, from now on: 1 is as it was trained, 0 nothing.

        Raises InUseError while a batch of another thread runs on it.
        """
        if not math.isfinite(factor):
            raise OptionError(f"scale of {name!r}: expected a finite number, found {factor}")
        with self._lock:
            self._refuse_merged(f"cannot scale {name!r}")
            self._residence.set_factor(name, float(factor), self.active)
            self._selection.apply()

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's numbers as parameters that take gradients, by the names of its tensors on disk; it is pinned.

        They are its slot's own memory, padded to its rank: a step of an optimiser is seen by the next forward in which
        the adapter is active. Batches by row go through the same numbers without gradients. Until `settle` the adapter
        is not swapped and no adapter is loaded that needs more room. Raises UnknownAdapterError, SlotsFullError,
        SealedError, InUseError where they are parameters already.
        """
        with self._lock:
            self._refuse_merged(f"cannot train {name!r}")
            if self._residence.sealed:
                raise SealedError(f"{name!r} is to be trained, which is compiled anew")
            return self._residence.parameters(name, self.active)

    def settle(self, name: str) -> None:
        """Take what the parameters hold now for the adapter's own numbers, under a new version; end its training."""
        with self._lock:
            self._residence.settle(name)
            self._selection.apply()

    def activate(self, names: str | Sequence[str] | None) -> None:
        """Let every row of the next batches go through these adapters, whose parts add up; None: the base alone."""
        with self._lock:
            self._refuse_merged("cannot switch adapters")
            self._selection.activate((names,) if isinstance(names, str) else tuple(names or ()))

    def enable(self) -> Restored:
        """Let adapters act again after `disable`; in a `with`, what was before comes back at its end."""
        return self._selection.set_enabled(on=True)

    def disable(self) -> Restored:
        """Let nothing act, not even what a batch names that begins later: the base alone; in a `with`, until its end.

        A batch that is open already goes on as it began.
        """
        return self._selection.set_enabled(on=False)

    @contextmanager
    def batch(self, names: Sequence[str]) -> Iterator[None]:
        """Let row i of this thread's batches within go through the adapter names[i]; `__base__` for none.

        Raises BatchError in training mode, UnknownAdapterError, SlotsFullError.
        """
        if self.model.training:
            raise BatchError("a batch of several adapters needs eval mode; call model.eval()")
        self._refuse_merged("cannot run a batch of several adapters")
        with self._selection.batch(names):
            yield

    def seal(self, *, max_batch: int, lanes: int = 1) -> None:
        """Fix the layout, the slots and the modules, so that from then on activate, enable, disable, batch, set_scale
        and swap only write data: code that torch.compile made of the model is never compiled anew for them.

        A batch names at most `max_batch` rows; at most `lanes` adapters are active at once, and each costs as much
        whether it is or not; one forward runs at a time. Load an adapter of every module first, with `target_rank`
        for the largest rank to come. Compile the model in place (`model.compile(fullgraph=True)`), so that a call of
        the runtime looks at the KV cache too.
        """
        with self._lock:
            self._refuse_merged("cannot seal")
            self._selection.seal(max_batch, lanes)

    def unseal(self) -> None:
        """Let any adapter be loaded again; what was compiled is compiled anew at its next call."""
        with self._lock:
            self._selection.unseal()

    def __call__(self, *args: Any, adapter_names: Sequence[str] | None = None, **inputs: Any) -> Any:
        """Call the model, row i through the adapter adapter_names[i]. Raises as `batch`, BatchError for more rows or
        fewer than names, and StaleCacheError for a KV cache that was filled under others.
        """
        if adapter_names is not None:
            check_rows(self.model, adapter_names, args, inputs)
            with self.batch(adapter_names):
                return self(*args, **inputs)
        if self._entry is None:
            return self.model(*args, **inputs)
        return self._entry.run(self.model, *args, **inputs)

    def generate(self, *args: Any, adapter_names: Sequence[str] | None = None, **inputs: Any) -> Any:
        """Call the model's own `generate`, row i of its inputs through the adapter adapter_names[i]; beams and the
        sequences of one row share its adapter. Raises as a call.
        """
        generate: Callable[..., Any] = self.model.generate  # type: ignore[assignment]  # transformers' GenerationMixin
        if adapter_names is None:
            with self._selection.runs.current():
                return generate(*args, **inputs)
        check_rows(self.model, adapter_names, args, inputs)
        check_generation(self.model, args, inputs)
        with self.batch(adapter_names):
            return generate(*args, **inputs)

    def merge(
        self,
        names: str | Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        unshare: bool = False,
        lossy: bool = False,
    ) -> MergeReport:
        """Write the adapters, each times its weight (1), into the model's weights; nothing is on beside them until
        `unmerge`, which brings back every bit.

        `unshare` gives modules that share a weight (tied tables, repeated layers) one each; `lossy` takes a merge of
        which less than 0.9 survives a 4-bit grid. Raises RefusedError, with every weight as it was.
        """
        with self._lock:
            self._refuse_merged("cannot merge")
            self._selection.runs.refuse("cannot merge")
            wanted = (names,) if isinstance(names, str) else tuple(names)
            factors = tuple(weights) if weights is not None else (1.0,) * len(wanted)
            if len(factors) != len(wanted) or not wanted:
                raise OptionError(f"expected a weight for each of {len(wanted)} adapters, found {len(factors)}")
            if len(set(wanted)) != len(wanted):
                raise OptionError(f"merge: a name stands twice in {', '.join(wanted)}; give it the sum of its weights")
            refuse_clashes({name: self._residence.get(name).parts for name in wanted})
            merge = Merge([self._residence.addition(*one) for one in zip(wanted, factors, strict=True)])
            report = merge.apply(self.model, self._residence.sites, unshare=unshare, lossy=lossy)
            self._lie(merge)
            return report

    def unmerge(self) -> None:
        """Take the merged adapters out of the weights again, bit by bit; what was active before is on again."""
        with self._lock:
            if self._merge is not None:
                self._selection.runs.refuse("cannot unmerge")
                self._merge.undo()
                self._lie(None)

    def merge_and_unload(
        self,
        names: str | Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        unshare: bool = False,
        lossy: bool = False,
    ) -> nn.Module:
        """Merge for good and give back the plain model, without sites or adapters. Raises as `merge`."""
        with self._lock:
            self.merge(names, weights, unshare=unshare, lossy=lossy)
            self._lie(None)
            return self.detach()

    def _lie(self, merge: Merge | None) -> None:
        """Let nothing be on beside what lies in the weights; where that is nothing, what was active before."""
        self._merge = merge
        additions = merge.additions if merge else ()
        held = [(one.name, self._residence.get(one.name).version, one.factor) for one in additions]
        self._selection.runs.merged = (tuple(held),)
        self._selection.suspended = merge is not None
        self._selection.apply()

    def _refuse_merged(self, what: str) -> None:
        if self._merge is not None:
            raise MergedError(what, self.merged)

    def _swap(self, name: str, staged: Staged) -> Swapped:
        swapped = self._residence.replace(name, staged, self.active)
        self._enter()
        self._selection.apply()
        return swapped

    def _enter(self) -> None:
        if self._entry is None and self._residence.sites:
            self._entry = Entry(self.model, self._selection.runs)
            self._entry.attach()

    def detach(self) -> nn.Module:
        """Take everything off the model and give it back as it was."""
        with self._lock:
            self._selection.runs.refuse("cannot detach")
            self.unmerge()
            self._selection.reset()
            self._residence.clear()
            if self._entry is not None:
                self._entry.detach()
            self._entry = None
            return self.model
