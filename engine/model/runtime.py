"""Adapters on a live model: the one object that loads, switches, mixes and takes them away."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BatchError, MergedError, OptionError, RuntimeStateError
from engine.format.adapter import read_adapter
from engine.kernels.plans import Whole
from engine.model.batch import BatchPlan
from engine.model.fit import fit
from engine.model.merging import Merge
from engine.model.residence import Residence, Room
from engine.model.switch import Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from engine.model.merging import MergeReport

BASE = "__base__"
"""The name that stands for the base model alone, among the names of a batch."""


class Runtime:
    """Any number of LoRA adapters on one model.

    `slots` adapters lie on the device at once; the others wait on the host and come in when they are named, in place of
    the one unused for longest. `target_rank` fixes the rank that every module's slot has room for; without it the room
    grows with the adapters. `dtype` is that of the factors and of the arithmetic with them.
    """

    def __init__(
        self, model: nn.Module, *, slots: int = 8, target_rank: int | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = model
        self._switch = Switch()
        self._residence = Residence(model, self._switch, Room(slots, target_rank, dtype))
        self._active: tuple[str, ...] = ()
        self._merge: Merge | None = None
        self._lock = threading.RLock()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded, in the order of loading."""
        return tuple(self._residence.loaded)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the adapters that are on, in the order in which they add up."""
        return self._active

    @property
    def merged(self) -> tuple[str, ...]:
        """The names of the adapters that lie in the weights."""
        return self._merge.names if self._merge else ()

    def load(self, name: str, path: Path) -> None:
        """Read the adapter in the folder `path`, hold it against the model and take it in under `name`.

        Raises RefusedError with everything that does not fit; then nothing is changed.
        """
        with self._lock:
            self._refuse_merged(f"cannot load {name!r}")
            facts = read_adapter(path)
            parts = fit(facts, self._residence.modules)
            self._residence.take_in(name, facts, parts)
            self._residence.bring_in(name, keep=self._active)

    def unload(self, name: str) -> None:
        """Forget the adapter; its slot is free again. Raises UnknownAdapterError, RuntimeStateError where it is on."""
        with self._lock:
            self._residence.get(name)
            if name in self.merged:
                raise MergedError(f"cannot unload {name!r}", self.merged)
            if name in self._active:
                raise RuntimeStateError(f"adapter {name!r} is active; activate another or none first")
            self._residence.forget(name)

    def activate(self, names: str | Sequence[str] | None) -> None:
        """Let every row of the next batches go through these adapters, whose parts add up; None: the base alone."""
        with self._lock:
            self._refuse_merged("cannot switch adapters")
            wanted = (names,) if isinstance(names, str) else tuple(names or ())
            slots = tuple(self._residence.bring_in(name, keep=wanted) for name in wanted)
            self._active = wanted
            self._switch.plan = BatchPlan(whole=Whole(slots, (1.0,) * len(slots))) if slots else None

    @contextmanager
    def batch(self, names: Sequence[str]) -> Iterator[None]:
        """Let row i of the batches within go through the adapter names[i]; `__base__` for none.

        Raises BatchError in training mode, UnknownAdapterError, SlotsFullError.
        """
        if self.model.training:
            raise BatchError("a batch of several adapters needs eval mode; call model.eval()")
        with self._lock:
            self._refuse_merged("cannot run a batch of several adapters")
            wanted = sorted(set(names) - {BASE})
            slots = {name: self._residence.bring_in(name, keep=wanted) for name in wanted} | {BASE: 0}
        before = self._switch.plan
        self._switch.plan = BatchPlan(rows=tuple(slots[name] for name in names))
        try:
            yield
        finally:
            self._switch.plan = before

    def __call__(self, *args: Any, adapter_names: Sequence[str] | None = None, **inputs: Any) -> Any:
        """Call the model, row by row through the adapters named."""
        if adapter_names is None:
            return self.model(*args, **inputs)
        with self.batch(adapter_names):
            return self.model(*args, **inputs)

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
            wanted = (names,) if isinstance(names, str) else tuple(names)
            factors = tuple(weights) if weights is not None else (1.0,) * len(wanted)
            if len(factors) != len(wanted) or not wanted:
                raise OptionError(f"expected a weight for each of {len(wanted)} adapters, found {len(factors)}")
            merge = Merge([self._residence.addition(*one) for one in zip(wanted, factors, strict=True)])
            report = merge.apply(self.model, self._residence.sites, unshare=unshare, lossy=lossy)
            self._merge, self._switch.plan = merge, None
            return report

    def unmerge(self) -> None:
        """Take the merged adapters out of the weights again, bit by bit; what was active before is on again."""
        with self._lock:
            if self._merge is not None:
                self._merge.undo()
                self._merge = None
                self.activate(self._active)

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
            self._merge = None
            return self.detach()

    def _refuse_merged(self, what: str) -> None:
        if self._merge is not None:
            raise MergedError(what, self.merged)

    def detach(self) -> nn.Module:
        """Take everything off the model and give it back as it was."""
        with self._lock:
            self.unmerge()
            self._residence.clear()
            self._active, self._switch.plan = (), None
            return self.model
