"""What a caller wants materialised, from texts to a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from registry.errors import UsageError
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.compat.engines.table import EngineTarget
    from registry.handle import Handle
    from registry.values.progress import Notice, Progress

Kind = Literal["merged", "hotswap", "peft"]
KINDS: tuple[Kind, ...] = get_args(Kind)
QUANTIZATIONS = ("nf4", "int8")
ROUNDINGS = ("nearest", "stochastic")
SHARD_SIZE = 5_000_000_000
_OPTIONS: Mapping[Kind, tuple[str, ...]] = {
    "merged": ("weights", "dtype", "quantize", "rounding", "seed", "shard_size", "lossy", "resume"),
    "hotswap": ("dtype", "rank"),
    "peft": ("rank", "for_engine"),
}
_FLAGS = {"for_engine": "--for"}


class MaterializeOptions(TypedDict, total=False):
    """What `Registry.materialize` may be given besides its adapters, form and place."""

    weights: Sequence[float] | None
    base: str | Path | None
    for_engine: str | None
    dtype: str | None
    quantize: str | None
    rounding: str | None
    seed: int | None
    shard_size: int | str | None
    rank: int | None
    lossy: bool
    store: bool
    resume: bool
    dry_run: bool
    jobs: int | None
    progress: Progress | None
    notice: Notice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeRequest:
    """`adapters` are references or paths; no `weights` are 1/n each. `base` is any name of a base, or a path; None is
    what the versions were pushed for. `target` is the engine that the result is for; `rank` the least of every module.
    """

    adapters: tuple[str, ...]
    kind: Kind
    to: Path
    weights: tuple[float, ...] = ()
    base: str | None = None
    target: EngineTarget | None = None
    dtype: str | None = None
    quantize: str | None = None
    rounding: str = "nearest"
    seed: int = 0
    shard_size: int = SHARD_SIZE
    rank: int | None = None
    lossy: bool = False
    store: bool = False
    resume: bool = False
    dry_run: bool = False
    jobs: int | None = None
    actor: str | None = field(default=None, compare=False)


def materialize_request(
    handle: Handle, adapters: Sequence[str | Path], kind: str, to: str | Path, options: MaterializeOptions
) -> MaterializeRequest:
    """Every text parsed; UsageError names what is malformed, or fits no result of this form."""
    from engine.compat.engines.target import parse_target

    form = _kind(kind)
    _check_options(form, options)
    names = tuple(one if isinstance(one, str) else str(one.expanduser().absolute()) for one in adapters)
    base, engine = options.get("base"), options.get("for_engine")
    return MaterializeRequest(
        adapters=names,
        kind=form,
        to=handle.new_place(to),
        weights=_weights(options.get("weights"), len(names), form),
        base=None if base is None else base if isinstance(base, str) else str(base.expanduser().absolute()),
        target=None if engine is None else parse_target(engine),
        dtype=options.get("dtype"),
        quantize=_one_of(options.get("quantize"), QUANTIZATIONS, "quantize"),
        rounding=_one_of(options.get("rounding"), ROUNDINGS, "rounding") or "nearest",
        seed=_seed(options.get("seed"), options.get("rounding")),
        shard_size=_shard_size(options.get("shard_size")),
        rank=_positive(options.get("rank"), "rank"),
        lossy=options.get("lossy", False),
        store=options.get("store", False),
        resume=options.get("resume", False),
        dry_run=options.get("dry_run", False),
        jobs=_positive(options.get("jobs"), "jobs"),
        actor=handle.settings.actor,
    )


def as_place(text: str) -> Path | None:
    """The path that a text is; None for a reference or a base's name."""
    return Path(text).expanduser() if is_path(text) else None


def _kind(text: str) -> Kind:
    if text not in KINDS:
        raise UsageError(f"as {text[:60]!r}: expected one of {', '.join(KINDS)}")
    return text


def _check_options(kind: Kind, options: Mapping[str, Any]) -> None:
    """Options of another form are refused, not ignored."""
    for other, names in _OPTIONS.items():
        for name in names:
            given = options.get(name)  # 0 is a seed
            if name not in _OPTIONS[kind] and given is not None and given is not False:
                flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
                raise UsageError(f"{flag} is of --as {other}, not of --as {kind}", hint="adapters materialize --help")


def _weights(given: Sequence[float] | None, count: int, kind: Kind) -> tuple[float, ...]:
    from registry.merges.ingredients import check_weights
    from registry.merges.weighting import Weighting

    if not count:
        raise UsageError("nothing to materialise: expected at least one adapter")
    if kind == "peft" and count > 1:
        hint = "merge them first: adapters merge REF REF --into NAME"
        raise UsageError(f"{count} adapters: --as peft writes one", hint=hint)
    weights = tuple(given) if given is not None else (1 / count if kind == "merged" else 1.0,) * count
    check_weights([Weighting(weight) for weight in weights], count)
    return tuple(float(weight) + 0.0 for weight in weights)  # 1 is 1.0 and -0.0 is 0.0: equal requests, one recipe


def _one_of(text: str | None, known: Sequence[str], what: str) -> str | None:
    if text is not None and text not in known:
        raise UsageError(f"{what} {text[:60]!r}: expected one of {', '.join(known)}")
    return text


def _positive(number: int | None, what: str) -> int | None:
    if number is not None and number < 1:
        raise UsageError(f"{what} {number}: expected a positive number")
    return number


def _seed(number: int | None, rounding: str | None) -> int:
    if number is not None and not 0 <= number < 2**63:
        raise UsageError(f"seed {number}: expected a whole number from 0")
    if number is not None and rounding != "stochastic":
        raise UsageError(
            "--seed decides stochastic rounding, and this rounds to nearest", hint="--rounding stochastic --seed N"
        )
    return number or 0


def _shard_size(value: int | str | None) -> int:
    from registry.browse.filters import parse_size

    size = SHARD_SIZE if value is None else parse_size(value) if isinstance(value, str) else value
    if size < 1:
        raise UsageError(f"shard size {value}: expected a positive number of bytes")
    return size
