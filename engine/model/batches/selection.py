"""Which adapters are on: active ones for all threads, those of a batch for one, nothing while disabled or merged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from engine.errors import BatchError, OptionError, RuntimeStateError, SealedError
from engine.kernels.plans import Whole
from engine.model.batches.batch import BatchPlan
from engine.model.batches.runs import Runs, used_slots
from engine.model.batches.sealed import SealedPlan, SealedSwitch
from engine.model.kinds.saved import refuse_clashes
from engine.model.names import BASE, is_text
from engine.model.state import Restored

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from engine.model.batches.switch import Switch
    from engine.model.memory.residence import Residence


class Selection:
    """Keeps the switch of all sites, and in a sealed runtime its buffers, in step with what was asked for.

    `active` are the names that are on for every row, `enabled` whether anything is. `suspended`: whether adapters lie
    in the weights, so that none is on beside them.
    """

    def __init__(self, lock: threading.RLock, switch: Switch, residence: Residence) -> None:
        self.active: tuple[str, ...] = ()
        self.enabled = True
        self.suspended = False
        self.runs = Runs(lock, switch, residence)
        self._lock = lock
        self._switch = switch
        self._residence = residence
        self._sealed: SealedPlan | None = None

    def activate(self, names: Sequence[str]) -> None:
        """Let every row go through these adapters. Raises OptionError, SealedError and what bringing them in does."""
        if not all(map(is_text, names)):
            raise OptionError(f"activate: expected names, found {names!r:.80}")
        if len(set(names)) != len(names):
            raise OptionError(f"activate: a name stands twice in {', '.join(names)}; use set_scale")
        if self._sealed is not None:
            _refuse_over(len(self._sealed.lanes), names)
        refuse_clashes({name: self._residence.get(name).parts for name in names})
        self._residence.refuse_replaced(names)
        self._residence.bring_all_in(names)
        self.active = tuple(names)
        self.apply()

    def apply(self) -> None:
        """Let what is on follow from what is active, enabled and suspended."""
        on = self.active if self.enabled and not self.suspended else ()
        slots = tuple(self._residence.bring_all_in(on))
        self._switch.shared = BatchPlan(whole=Whole(slots, (1.0,) * len(slots))) if slots else None
        if self._sealed is not None:
            self._sealed.share(slots)

    def set_enabled(self, *, on: bool) -> Restored:
        """Let adapters act or not; the value puts back what was before."""
        with self._lock:
            before = self.enabled
            self._put_enabled(on=on)
        return Restored(lambda: self._put_enabled(on=before))

    @contextmanager
    def batch(self, names: Sequence[str]) -> Iterator[BatchPlan | None]:
        """Let this thread's rows go through the adapters named, on slots that nobody writes into meanwhile.

        A sealed runtime has one buffer, so that other threads wait. Raises BatchError, UnknownAdapterError,
        SlotsFullError.
        """
        with self._lock:
            plan = self._plan(names)
            self._residence.slots.enter(used_slots(plan))
            sealed = self._sealed
            if sealed is None:
                run = self.runs.on(plan)
            else:
                with self.runs.on(plan), sealed.holding(plan.rows if plan is not None else (0,)):
                    yield plan
                return
        with run:
            yield plan

    def seal(self, max_batch: int, lanes: int) -> None:
        """Let every site take its slots from buffers. Raises RuntimeStateError where there is no site, SealedError for
        kinds that cannot or where more adapters are active than there are lanes, OptionError.
        """
        residence = self._residence
        for name, number in {"max_batch": max_batch, "lanes": lanes}.items():
            if number < 1:
                raise OptionError(f"{name}: expected a positive number, found {number}")
        if not residence.sites:
            raise RuntimeStateError("nothing to seal: load an adapter of every module that will have one first")
        _refuse_over(lanes, self.active)
        held_back = sorted(path for path, site in residence.sites.items() if not site.kind.seals)
        if held_back:
            kinds = sorted({residence.sites[path].kind.name for path in held_back})
            raise RuntimeStateError(f"cannot seal {', '.join(kinds)}, as {held_back[0]}; unload those adapters first")
        self._sealed = SealedPlan([span.device for span in residence.the_arena.layout.spans], max_batch, lanes)
        self._turn(SealedSwitch(self._sealed), sealed=True)

    def unseal(self) -> None:
        """Let plans be values again, any adapter be loaded, and compiled code be compiled anew."""
        self._sealed = None
        self._turn(self._switch, sealed=False)

    def reset(self) -> None:
        """Nothing active, enabled, not sealed."""
        self.active, self.enabled, self.suspended, self._sealed = (), True, False, None
        self._turn(self._switch, sealed=False)

    def _turn(self, switch: Switch | SealedSwitch, *, sealed: bool) -> None:
        for site in self._residence.sites.values():
            site.switch = cast("Switch", switch)  # kinds that seal ask a plan for no more than both have
        self._residence.sealed = self.runs.exclusive = sealed
        self.apply()

    def _put_enabled(self, *, on: bool) -> None:
        with self._lock:
            self.enabled = on
            self.apply()

    def _plan(self, names: Sequence[str]) -> BatchPlan | None:
        if not isinstance(names, Sequence) or isinstance(names, str) or not names or not all(map(is_text, names)):
            raise BatchError(f"expected a list of one adapter name per row, found {names!r:.80}")
        wanted = sorted(set(names) - {BASE})
        slots = {**dict(zip(wanted, self._residence.bring_all_in(wanted, self.active), strict=True)), BASE: 0}
        return BatchPlan(rows=tuple(slots[name] for name in names)) if wanted and self.enabled else None


def _refuse_over(lanes: int, names: Sequence[str]) -> None:
    if len(names) > lanes:
        raise SealedError(f"{len(names)} adapters at once ({', '.join(names)}), there is room for {lanes} (lanes)")
