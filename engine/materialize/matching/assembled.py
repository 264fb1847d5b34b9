"""The effects of all adapters on the stored tensors of the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.changes.experts import Experts
from engine.materialize.changes.vectors import Shift
from engine.materialize.changes.within import Within
from engine.materialize.matching.pieces import change_of, copy_of
from engine.materialize.matching.same import same_numbers
from engine.materialize.matching.tied import settled
from engine.materialize.matching.vocabulary import resized, tables_of
from engine.materialize.outputs import Output, Outputs
from engine.materialize.stored.place import PLAIN, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.materialize.changes.change import Change
    from engine.materialize.matching.effect import Effect
    from engine.materialize.matching.seat import Piece, Seat
    from engine.materialize.matching.seats import Seats
    from engine.materialize.stored.place import Place, Stored


@dataclass(slots=True)
class _Target:
    """What is done to one stored tensor so far."""

    changes: list[Change] = field(default_factory=list)
    copy: Place | None = None
    module: str = ""


def assembled(seats: Seats, effects: Sequence[Sequence[Effect]]) -> Outputs:
    """Raises RefusedError where adapters bring different copies of one tensor, tables of different sizes, or effects
    that do not come apart as the base's tensors are.
    """
    found = settled(seats, effects)
    targets: dict[str, _Target] = {}
    findings = [wrong for own in found.effects for wrong in _placed(own, seats, targets)]
    if findings:
        raise RefusedError(findings)
    tensors = {**seats.frame.tensors, **{twin: seats.frame.tensors[source] for twin, source in found.parted.items()}}
    headed = seats.frame.headed
    brought = {} if headed is None else dict.fromkeys(headed.brought, headed.dtype)
    outputs = tuple(_output(name, stored, targets.get(name), brought.get(name, "")) for name, stored in tensors.items())
    before = {name: stored.shape[0] for name, stored in tensors.items() if stored.shape}
    config = {**seats.frame.config, **found.config}
    sizes = resized(config, before, tables_of(outputs))
    return Outputs(outputs, {**seats.frame.changed, **found.config, **sizes}, headed)


def _placed(own: Sequence[Effect], seats: Seats, targets: dict[str, _Target]) -> Iterator[Finding]:
    """One adapter's effects, added to the targets; changes of parts of one tensor become one change."""
    parts: dict[str, list[tuple[Change, tuple[int, int]]]] = {}
    for effect in own:
        seat = seats.of(effect.path)
        assert seat is not None
        for piece in seat.pieces:
            target = targets.setdefault(piece.name, _Target())
            target.module = effect.module
            stored = seats.stored(piece.name)
            change = _change(effect, piece, seat, stored, target)
            if isinstance(change, Finding):
                yield change
            elif change is not None and piece.within is not None:
                parts.setdefault(piece.name, []).append((change, piece.within))
            elif change is not None:
                target.changes.append(change)
    for name, held in parts.items():
        changes, rows = zip(*held, strict=True)
        fold = 2 if len(seats.stored(name).shape) == 3 else 1
        targets[name].changes.append(Within(changes, rows, fold))


def _change(effect: Effect, piece: Piece, seat: Seat, stored: Stored, target: _Target) -> Change | Finding | None:
    """The change of the piece; None where its copy became the target's."""
    if effect.change is not None:
        return change_of(effect.change, piece, seat) or _unknown(effect, piece)
    assert effect.copy is not None
    copy = copy_of(effect.copy, piece)
    if copy is None:
        return _unknown(effect, piece)
    if piece.within is not None or effect.share is not None:
        alone = piece.within is None and effect.share == 1 and not target.changes and target.copy is None
        if not alone:
            return _shift(copy, effect, piece, stored)
    elif target.copy is not None and not same_numbers(target.copy, copy):
        message = f"{piece.name}: two adapters have different copies of it; only one can be on"
        return Finding("own-clash", "error", message, where=piece.name)
    target.copy = copy
    return None


def _shift(copy: Place, effect: Effect, piece: Piece, stored: Stored) -> Change | Finding:
    if stored.encoding != PLAIN:
        return _unknown(effect, piece)
    base = stored.parts[""] if piece.within is None else stored.parts[""].rows(*piece.within)
    return Shift(copy, base, 1.0 if effect.share is None else effect.share)


def _unknown(effect: Effect, piece: Piece) -> Finding:
    message = f"{effect.path}: what the adapter does to it cannot be told for {piece.name}, which holds a part of it"
    return Finding("own-kind", "error", message, where=effect.path)


def _output(name: str, stored: Stored, target: _Target | None, dtype: str) -> Output:
    """`dtype` is that of a tensor that the base has not, empty for the base's own."""
    if target is None:
        return Output(name, _by_rows(stored, ()))
    source = _by_rows(stored if target.copy is None else plain(target.copy), target.changes)
    return Output(name, source, tuple(target.changes), target.module, dtype=dtype or stored.numbers)


def _by_rows(source: Stored, changes: Sequence[Change]) -> Stored:
    """A stack of experts seen as the rows of all of them, so that no block is a whole expert."""
    stacked = all(isinstance(one, Experts) or (isinstance(one, Within) and one.fold > 1) for one in changes)
    return replace(source, fold=2) if stacked and len(source.shape) == 3 else source
