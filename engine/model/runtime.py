"""Adapters on a live model: the one object that loads, switches, mixes and takes them away."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BatchError, RuntimeStateError
from engine.format.adapter import read_adapter
from engine.kernels.plans import Whole
from engine.model.batch import BatchPlan
from engine.model.fit import fit
from engine.model.residence import Residence, Room
from engine.model.switch import Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

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
        self._lock = threading.RLock()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded, in the order of loading."""
        return tuple(self._residence.loaded)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the adapters that are on, in the order in which they add up."""
        return self._active

    def load(self, name: str, path: Path) -> None:
        """Read the adapter in the folder `path`, hold it against the model and take it in under `name`.

        Raises RefusedError with everything that does not fit; then nothing is changed.
        """
        with self._lock:
            facts = read_adapter(path)
            parts = fit(facts, self._residence.modules)
            self._residence.take_in(name, facts, parts)
            self._residence.bring_in(name, keep=self._active)

    def unload(self, name: str) -> None:
        """Forget the adapter; its slot is free again. Raises UnknownAdapterError, RuntimeStateError where it is on."""
        with self._lock:
            self._residence.get(name)
            if name in self._active:
                raise RuntimeStateError(f"adapter {name!r} is active; activate another or none first")
            self._residence.forget(name)

    def activate(self, names: str | Sequence[str] | None) -> None:
        """Let every row of the next batches go through these adapters, whose parts add up; None: the base alone."""
        with self._lock:
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

    def detach(self) -> nn.Module:
        """Take everything off the model and give it back as it was."""
        with self._lock:
            self._residence.clear()
            self._active, self._switch.plan = (), None
            return self.model
