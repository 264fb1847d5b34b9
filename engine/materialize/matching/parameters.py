"""Factors on single tensors: experts and other target_parameters, and the projections of torch's attention."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.together.parameters import MOST_WRAPPERS, before_swap
from engine.format.configs.patterns import Matcher
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import WRAPPER
from engine.format.names.modules import parameter_names
from engine.materialize.changes.experts import Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.matching.effect import Effect, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.materialize.matching.seat import Seat, Shape
    from engine.materialize.matching.seats import Seats

_OUT_PROJ = 2
"""How often PEFT 0.21.2 adds ΔW to an attention block's out_proj, in its forward and its merge: training saw that."""
_SWAP_FIX = "train it, or save it again, with peft 0.19 or newer"


def is_parameter(module: ModuleFacts, seats: Seats) -> bool:
    """Whether these factors are on a single tensor."""
    return module.kind == "parameter" or _in_proj(module, seats) is not None or _is_out_proj(module, seats)


def parameter_effects(facts: AdapterFacts, seats: Seats, weight: float) -> Iterator[Effect | Finding]:
    """What the adapter does to single tensors, and what has no place."""
    nested: defaultdict[str, list[ModuleFacts]] = defaultdict(list)
    for module in facts.modules:
        if module.kind == "parameter":
            nested[module.base_name].append(module)
        elif (seat := _in_proj(module, seats)) is not None:
            yield from _factors(facts, module, seat, module.scaling * weight)
        elif _is_out_proj(module, seats):
            seat = seats.of(f"{module.base_name}.weight")
            if seat is None:
                yield _absent(module.base_name)
            else:
                yield from _factors(facts, module, seat, _OUT_PROJ * module.scaling * weight)
    for path, group in nested.items():
        yield from _nested(path, group, facts, seats, weight)


def _in_proj(module: ModuleFacts, seats: Seats) -> Seat | None:
    # Asked of every module: a mixture has tens of thousands, and what is not there is looked for longest.
    return seats.of(f"{module.base_name}.in_proj_weight") if seats.has_in_proj else None


def _is_out_proj(module: ModuleFacts, seats: Seats) -> bool:
    parent, _, name = module.base_name.rpartition(".")
    return name == "out_proj" and seats.of(f"{parent}.in_proj_weight") is not None


def _nested(
    path: str, group: Sequence[ModuleFacts], facts: AdapterFacts, seats: Seats, weight: float
) -> Iterator[Effect | Finding]:
    """PEFT nests the wrappers of one module's parameters: the first that the module registered lies innermost."""
    lora = facts.config.lora
    assert lora is not None
    leaves = sorted({name.rpartition(".")[2] for name in parameter_names(path, lora.target_parameters or ())})
    found = {leaf: seat for leaf in leaves if (seat := seats.of(f"{path}.{leaf}")) is not None}
    if len(found) != len(group):
        message = f"{path}: target_parameters name {len(found)} of its parameters {list(found)}, found factors for "
        yield Finding("base-module-absent", "error", f"{message}{len(group)}", where=path)
        return
    inner_first = sorted(group, key=lambda one: -one.name.count(WRAPPER))
    matcher = Matcher(lora)
    ranks = {leaf: matcher.effective(f"{path}.{leaf}")[0] for leaf in found}
    order = _order(path, inner_first, found, ranks, seats)
    if order is None:
        message = f"{path}: which factors are of which of its parameters {list(found)} cannot be told"
        yield Finding("own-kind", "error", message, where=path)
        return
    for module, leaf in zip(inner_first, order, strict=True):
        rank, alpha = matcher.effective(f"{path}.{leaf}")
        scaling = alpha / (rank**0.5 if lora.use_rslora else rank)
        yield from _factors(facts, module, found[leaf], scaling * weight, turned=seats.is_turned_stack(path), rank=rank)


def _order(
    path: str, group: Sequence[ModuleFacts], found: dict[str, Seat], ranks: Mapping[str, int], seats: Seats
) -> Sequence[str] | None:
    """The parameters in the order of their wrappers: the only one in which they fit, else as the model has them; None
    where transformers does not know the model.
    """
    turned = seats.is_turned_stack(path)
    fitting = []
    for order in permutations(found) if len(found) <= MOST_WRAPPERS else ():
        pairs = zip(group, order, strict=True)
        if all(_fits(module, found[leaf], ranks[leaf], turned=turned) for module, leaf in pairs):
            fitting.append(order)
    if len(fitting) == 1 or len(found) == 1:
        return fitting[0] if fitting else tuple(found)
    registered = seats.registered(path)
    if found.keys() <= set(registered):
        return sorted(found, key=registered.index)
    return None if fitting else tuple(found)


def _widths(shape: Shape, *, turned: bool) -> tuple[int, int, int]:
    """(experts, in, out) of a parameter; 1 expert of a matrix, which is (out, in)."""
    if len(shape) == 2:
        return 1, shape[1], shape[0]
    experts, one, two = shape
    return (experts, one, two) if turned else (experts, two, one)


def _fits(module: ModuleFacts, seat: Seat, rank: int, *, turned: bool) -> bool:
    if len(seat.shape) not in (2, 3):
        return False
    experts, fan_in, fan_out = _widths(seat.shape, turned=turned)
    return (module.a_shape, module.b_shape) == ((rank * experts, fan_in), (fan_out, rank * experts))


def _factors(
    facts: AdapterFacts,
    module: ModuleFacts,
    seat: Seat,
    factor: float,
    *,
    turned: bool = False,
    rank: int | None = None,
) -> Iterator[Effect | Finding]:
    rank = rank or module.configured_rank or module.rank
    problem = next(_problems(facts, module, seat, turned=turned, rank=rank), None)
    if problem is not None:
        yield problem
        return
    A, B = place_of(facts, module.a_key), place_of(facts, module.b_key)
    stack = len(seat.shape) == 3
    yield Effect(seat.path, module.base_name, Experts(A, B, factor, turned) if stack else LowRank(A, B, factor))


def _problems(facts: AdapterFacts, module: ModuleFacts, seat: Seat, *, turned: bool, rank: int) -> Iterator[Finding]:
    path = seat.path
    if len(seat.shape) not in (2, 3) or seat.packed:
        found = f"{len(seat.shape)} dimensions{', packed' if seat.packed else ''}"
        message = f"{path}: expected a parameter of 2 or 3 dimensions of plain numbers, found {found}"
        yield Finding("own-kind", "error", message, where=path)
        return
    experts, fan_in, fan_out = _widths(seat.shape, turned=turned)
    if experts > 1 and not turned and _is_old(facts, module, fan_in, fan_out):
        message = f"{path}: its factors lie as peft before 0.19 laid those of experts"
        yield Finding("expert-layout", "error", message, where=module.a_key, fix=_SWAP_FIX)
    elif not _fits(module, seat, rank, turned=turned):
        rows = rank * experts
        wanted = f"expected factors of {[rows, fan_in]} and {[fan_out, rows]}"
        message = f"{path}: {wanted}, found {list(module.a_shape)} and {list(module.b_shape)}"
        yield Finding("base-shape", "error", message, where=path)
    if module.extras:
        message = f"{path}: cannot merge {', '.join(module.extras)} into a parameter"
        yield Finding("own-part", "error", message, where=path)
    for key in (module.a_key, module.b_key):
        dtype = facts.header.tensors[key].dtype
        if dtype not in READABLE:
            yield Finding("own-dtype", "error", f"{key}: expected a floating dtype, found {dtype}", where=key)


def _is_old(facts: AdapterFacts, module: ModuleFacts, fan_in: int, fan_out: int) -> bool:
    """Whether the factors lie the other way round: as their shapes show, or their peft's number where both fit."""
    if (module.a_shape[1], module.b_shape[0]) != (fan_out, fan_in):
        return False
    return fan_in != fan_out or bool(before_swap(facts.config.peft_version))


def _absent(path: str) -> Finding:
    return Finding("base-module-absent", "error", f"{path}: the base has no such module", where=path)
