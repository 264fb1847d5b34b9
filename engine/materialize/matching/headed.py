"""A base that becomes the model of an adapter's task: the base's body with the head that the adapter brings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.base import config_facts
from engine.format.files.dtypes import READABLE
from engine.format.names.canonical import canonical
from engine.materialize.matching.classes import class_of
from engine.materialize.matching.copies import copied
from engine.materialize.matching.effect import place_of
from engine.materialize.matching.labels import counts, head_settings, labels_of
from engine.materialize.matching.lacking import lacking
from engine.materialize.matching.live import live_of
from engine.materialize.matching.seats import Seats
from engine.materialize.outputs import Headed
from engine.materialize.stored.place import plain
from engine.model.fitting.claims import completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.format.facts import AdapterFacts
    from engine.materialize.matching.frame import Frame
    from engine.materialize.matching.live import Live
    from engine.materialize.matching.seat import Seat, Shape
    from engine.materialize.stored.place import Place, Stored


@dataclass(frozen=True, slots=True)
class _Copy:
    """An adapter's copy of the parameter `path`, in its tensor `name`."""

    facts: AdapterFacts
    name: str
    path: str

    @property
    def place(self) -> Place:
        return place_of(self.facts, self.name)


def headed(seats: Seats, adapters: Sequence[AdapterFacts]) -> Seats:
    """The seats in the model of the adapters' task, where that is another than the base's and they bring its head; else
    `seats`. No number is made up.

    Raises RefusedError for every tensor of that model that neither base nor adapters have, for heads of different
    sizes, and for adapters of two tasks.
    """
    brought = [(one, [_Copy(one, *pair) for pair in copied(one).items()]) for one in map(completed, adapters)]
    asked = {name: facts for facts, own in brought if (name := _asked(seats.frame, facts, own)) is not None}
    if len(asked) > 1:
        told = " and ".join(f"{facts.path.name} of {name}" for name, facts in asked.items())
        message = f"architectures: expected heads of one model, found {told}; materialise them apart"
        raise RefusedError([Finding("head-class", "error", message, where="task_type")])
    copies = [one for _, own in brought for one in own]
    return next((_reframed(seats.frame, name, copies) for name in asked), seats)


def _asked(frame: Frame, facts: AdapterFacts, copies: Sequence[_Copy]) -> str | None:
    """The class of an adapter that brings a head of it; None where the base has such a head, or it is not known."""
    stated = config_facts(frame.config)
    name = class_of(facts, stated["model_type"]) if copies else None
    if name is None:
        return None
    if name == stated["architecture"]:
        return name if _relabelled(frame, name, copies) else None
    live = live_of(_configured(frame, name, labels_of(frame.config)))
    return name if live is not None and _heads(frame, live, copies) else None


def _relabelled(frame: Frame, name: str, copies: Sequence[_Copy]) -> bool:
    """Whether the copies fit the base's own class with another number of labels than it has."""
    own, *others = counts(frame.config, (copy.place.shape[0] for copy in copies if copy.place.shape))
    return not _fits(frame, name, own, copies) and any(_fits(frame, name, count, copies) for count in others)


def _fits(frame: Frame, name: str, labels: int, copies: Sequence[_Copy]) -> bool:
    live = live_of(_configured(frame, name, labels))
    return live is not None and not any(_misfits(live, _heads(frame, live, copies)))


def _configured(frame: Frame, name: str, labels: int) -> Frame:
    changed = head_settings(frame.config, name, labels)
    return replace(frame, config={**frame.config, **changed}, changed={**frame.changed, **changed})


def _heads(frame: Frame, live: Live, copies: Sequence[_Copy]) -> dict[str, list[_Copy]]:
    """The copies of what the model has beside its body, or the base has not, by the model's own name."""
    named = {canonical(name): name for name in live.shapes()}
    there = {live.renamed(name)[0] for name in frame.tensors}
    found: dict[str, list[_Copy]] = {}
    for copy in copies:
        name = named.get(canonical(copy.path))
        if name is not None and (name not in there or live.is_beside(name)):
            found.setdefault(name, []).append(copy)
    return found


def _reframed(frame: Frame, name: str, copies: Sequence[_Copy]) -> Seats:
    """The base's tensors that the class has, under the names that it writes, and the head."""
    labelled, live, heads = _fitting(frame, name, copies)
    tensors: dict[str, Stored] = {}
    left_out = []
    for own, stored in frame.tensors.items():
        target, _ = live.renamed(own)
        if target in live.shapes() and target not in heads:
            tensors[live.stored_name(own)] = stored
        elif target not in heads:
            left_out.append(own)
    tensors |= {path: plain(held[0].place) for path, held in heads.items()}
    told = Headed(name, config_facts(frame.config)["architecture"], tuple(heads), tuple(left_out), _dtype(frame))
    seats = Seats(replace(labelled, tensors=tensors, headed=told))
    if missing := [_missing(name, *one) for one in lacking(seats)]:
        raise RefusedError(missing)
    return seats


def _fitting(frame: Frame, name: str, copies: Sequence[_Copy]) -> tuple[Frame, Live, dict[str, list[_Copy]]]:
    """The frame with as many labels as the heads have, the model, and the heads by its names; the base's own number
    where that fits. Raises RefusedError where none does.
    """
    wrong: list[Finding] = []
    for labels in counts(frame.config, (copy.place.shape[0] for copy in copies if copy.place.shape)):
        configured = _configured(frame, name, labels)
        live = live_of(configured)
        if live is None:
            continue
        heads = _heads(frame, live, copies)
        misfits = list(_misfits(live, heads))
        if not misfits:
            return configured, live, heads
        wrong = wrong or misfits
    raise RefusedError(wrong)


def _misfits(live: Live, heads: Mapping[str, Sequence[_Copy]]) -> Iterator[Finding]:
    for path, held in heads.items():
        sizes = dict.fromkeys(copy.place.shape for copy in held)
        if len(sizes) > 1:
            told = " and ".join(str(list(size)) for size in sizes)
            message = f"{path}: two adapters have different copies of it, {told}; only one can be on"
            yield Finding("own-clash", "error", message, where=path)
        elif (expected := live.shapes()[path]) not in sizes:
            message = f"{held[0].name}: expected {list(expected)}, found {list(held[0].place.shape)}"
            yield Finding("base-shape", "error", message, where=held[0].name)


def _missing(architecture: str, path: str, shape: Shape, seat: Seat | None) -> Finding:
    if seat is not None:
        message = f"{path}: {architecture} has {list(shape)}, found {list(seat.shape)}"
        return Finding("base-shape", "error", message, where=path)
    message = (
        f"{path}: {architecture} has it, neither the base nor the adapter does; what it was in training was not saved"
        " (name it in modules_to_save)"
    )
    return Finding("head-missing", "error", message, where=path)


def _dtype(frame: Frame) -> str:
    """The floating dtype that most of the base's tensors have."""
    counts = Counter(stored.numbers for stored in frame.tensors.values() if stored.numbers in READABLE)
    return max(counts, key=counts.__getitem__, default="")
