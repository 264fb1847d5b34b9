"""What `list` filters and sorts by: one frozen query, and the parsers of its texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeVar

from registry.errors import UsageError
from registry.origins.provenance import NO_LICENCE, parse_licence

if TYPE_CHECKING:
    from collections.abc import Callable

SORT_KEYS = ("name", "created", "size", "rank", "version")
STATUSES = ("pass", "warn", "inconclusive", "fail")
_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    prefix + suffix: int(base**power)
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_GLOB = re.compile(r"[a-z0-9._*?/-]+", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{4,64}", re.ASCII)
_LARGEST = 2**63 - 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """An inclusive range of numbers; None leaves an end open."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """An inclusive range of moments. A timedelta is that long before the database's now."""

    low: datetime | timedelta | None = None
    high: datetime | timedelta | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One page of `list`. Every filter must hold; `limit` 0 is all; `sort` is a key of SORT_KEYS or `metric:NAME`.
    `git_commit` is how it begins; `licence` may be `none`.
    """

    name: str | None = None
    base: str | None = None
    peft_type: str | None = None
    rank: Bounds | None = None
    size: Bounds | None = None
    created: Span | None = None
    tags: tuple[tuple[str, str], ...] = ()
    alias: str | None = None
    metrics: tuple[tuple[str, Bounds], ...] = ()
    check: tuple[str, str] | None = None
    licence: str | None = None
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    pushed_by: str | None = None
    sort: str = "name"
    descending: bool = False
    limit: int = 100
    cursor: str | None = None
    all_versions: bool = False


NumberRange = str | tuple[float | None, float | None] | None


class ListFilters(TypedDict, total=False):
    """The keyword arguments of `list_query` and of `Registry.list`."""

    name: str | None
    base: str | None
    peft_type: str | None
    rank: NumberRange
    size: NumberRange
    created: str | tuple[datetime | None, datetime | None] | None
    tags: Mapping[str, str] | None
    alias: str | None
    metrics: Mapping[str, NumberRange] | None
    check: str | Mapping[str, str] | None
    licence: str | None
    git_commit: str | None
    run_id: str | None
    data_digest: str | None
    pushed_by: str | None
    sort: str
    limit: int
    cursor: str | None
    all_versions: bool


def list_query(
    *,
    name: str | None = None,
    base: str | None = None,
    peft_type: str | None = None,
    rank: NumberRange = None,
    size: NumberRange = None,
    created: str | tuple[datetime | None, datetime | None] | None = None,
    tags: Mapping[str, str] | None = None,
    alias: str | None = None,
    metrics: Mapping[str, NumberRange] | None = None,
    check: str | Mapping[str, str] | None = None,
    licence: str | None = None,
    git_commit: str | None = None,
    run_id: str | None = None,
    data_digest: str | None = None,
    pushed_by: str | None = None,
    sort: str = "name",
    limit: int = 100,
    cursor: str | None = None,
    all_versions: bool = False,
) -> ListQuery:
    """A query from the texts of the command line or the values of Python; UsageError names what is malformed."""
    if limit < 0:
        raise UsageError(f"limit {limit}: expected 0 (all) or more")
    key, descending = parse_sort(sort)
    if alias is not None and alias.lower() == "latest":  # built in: what a list without --all-versions shows
        alias, all_versions = None, False
    return ListQuery(
        name=None if name is None else parse_glob(name),
        base=base,
        peft_type=None if peft_type is None else peft_type.upper(),
        rank=_number_range(rank, "rank", parse_count),
        size=_number_range(size, "size", parse_size),
        created=_span(created),
        tags=tuple(sorted((tags or {}).items())),
        alias=None if alias is None else alias.lower(),
        metrics=tuple(
            (metric, _number_range(bounds, f"metric {metric}", parse_number) or Bounds())
            for metric, bounds in sorted((metrics or {}).items())
        ),
        check=_check(check),
        licence=None if licence is None else parse_licence_filter(licence),
        git_commit=None if git_commit is None else parse_commit_prefix(git_commit),
        run_id=run_id,
        data_digest=data_digest,
        pushed_by=pushed_by,
        sort=key,
        descending=descending,
        limit=limit,
        cursor=cursor,
        all_versions=all_versions,
    )


def parse_sort(text: str) -> tuple[str, bool]:
    """`KEY` or `KEY:desc` (also `:asc`): the key, and whether it descends."""
    key, _, direction = text.rpartition(":")
    if direction not in ("asc", "desc") or not key:
        key, direction = text, "asc"
    if key not in SORT_KEYS and not (key.startswith("metric:") and len(key) > len("metric:")):
        raise UsageError(f"sort key {text[:120]!r}: expected {', '.join(SORT_KEYS)} or metric:NAME, with :desc at will")
    return key, direction == "desc"


def parse_glob(text: str) -> str:
    """A pattern over `namespace/name`, or over the name in every namespace. `*` and `?` do not match `/`."""
    folded = text.lower() if text.isascii() else text
    if not _GLOB.fullmatch(folded) or folded.count("/") > 1:
        raise UsageError(f"name pattern {text[:120]!r}: expected namespace/name or name, with * and ? as wildcards")
    return folded


def parse_licence_filter(text: str) -> str:
    """A licence, or `none` for versions without one."""
    return NO_LICENCE if text.strip().lower() == NO_LICENCE else parse_licence(text)


def parse_commit_prefix(text: str) -> str:
    """The beginning of a commit: 4 to 64 hexadecimal digits."""
    folded = text.strip().lower()
    if not _PREFIX.fullmatch(folded):
        raise UsageError(f"git commit {text[:120]!r}: expected its first 4 to 64 hexadecimal digits")
    return folded


def parse_count(text: str) -> int:
    """A whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > _LARGEST:
        raise UsageError(f"{text[:120]!r} is not a whole number")
    return int(text)


def parse_number(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{text[:120]!r} is not a finite number")
    return number


def parse_size(text: str) -> int:
    """Bytes, with a unit at will: B, KB MB GB TB of 1000, KiB MiB GiB TiB of 1024."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise UsageError(f"size {text[:120]!r}: expected bytes, or a number with B, KB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return min(round(float(match.group(1)) * unit), _LARGEST)


def parse_duration(text: str) -> timedelta:
    """`0`, `90s`, `15m`, `12h`, `7d`."""
    if text == "0":
        return timedelta(0)
    match = _DURATION.fullmatch(text)
    try:
        return timedelta(seconds=int(match.group(1)) * _SECONDS[match.group(2)]) if match else _no_duration(text)
    except OverflowError:
        return _no_duration(text)


def parse_range(text: str, what: str, parse: Callable[[str], _T]) -> tuple[_T | None, _T | None]:
    """`LO..HI`, `LO..`, `..HI`, or one value for both ends."""
    low, dots, high = text.partition("..")
    if not dots:
        low = high = text
    if not low and not high:
        raise UsageError(f"{what} {text[:120]!r}: expected LO..HI, LO.., ..HI or one value")
    try:
        return (parse(low) if low else None, parse(high) if high else None)
    except UsageError as error:
        raise UsageError(f"{what} {text[:120]!r}: {error}") from None


def parse_created(text: str) -> Span:
    """Days and ISO 8601 moments in UTC, or durations before now: `7d` is within 7 days, `30d..7d` is between."""
    low, high = parse_range(text, "created", _moment)
    if ".." not in text and isinstance(low, timedelta):
        return Span(low=low)
    day = text.rpartition("..")[2]
    if isinstance(high, datetime) and _is_day(day):
        high = high + timedelta(days=1, microseconds=-1)
    return Span(low, high)


def _moment(text: str) -> datetime | timedelta:
    if text == "0" or _DURATION.fullmatch(text):
        return parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text[:120]!r} is not a date (2026-01-31), a moment or a duration (7d)") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _is_day(text: str) -> bool:
    return "T" not in text.upper() and " " not in text and datetime.fromisoformat(text).time() == time(0)


def _no_duration(text: str) -> timedelta:
    raise UsageError(f"duration {text[:120]!r}: expected 0, 90s, 15m, 12h or 7d")


def _number_range(given: NumberRange, what: str, parse: Callable[[str], float]) -> Bounds | None:
    if given is None:
        return None
    low, high = parse_range(given, what, parse) if isinstance(given, str) else given
    if low is not None and high is not None and low > high:
        raise UsageError(f"{what} {low}..{high}: the low end is above the high end")
    return Bounds(low, high)


def _span(given: str | tuple[datetime | None, datetime | None] | None) -> Span | None:
    if given is None or isinstance(given, str):
        return None if given is None else parse_created(given)
    low, high = (
        moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment for moment in given
    )
    return Span(low, high)


def _check(given: str | Mapping[str, str] | None) -> tuple[str, str] | None:
    if given is None:
        return None
    pairs = list(given.items()) if isinstance(given, Mapping) else [given.rpartition("=")[::2]]
    if len(pairs) != 1 or not pairs[0][0] or pairs[0][1] not in STATUSES:
        raise UsageError(f"check {given!r}: expected ENGINE=STATUS with a status of {', '.join(STATUSES)}")
    return _question(pairs[0][0]), pairs[0][1]


def _question(text: str) -> str:
    """The label under which `check` keeps its answer, whichever of an engine's names and spellings is given."""
    # Most lists ask for no check, and need no table of engines.
    from registry.findings.questions import parse_engine
    from registry.findings.verdicts import CHECKIN

    return text if text == CHECKIN else parse_engine(text).label
