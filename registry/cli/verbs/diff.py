"""`diff`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference
from registry.cli.shown.output import emit
from registry.cli.shown.progress import bars
from registry.cli.shown.text import fields, number, percent, plural, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.cli.invocation import Invocation
    from registry.differences import DiffResult, ModuleDiff, SpaceDiff, ThingDiff, ValueDiff

_TOP = 10
_LONGEST = 60  # characters of a config value shown to a person; JSON has all


@click.command(
    cls=Verb,
    examples=[
        "adapters diff team/sql@prod team/sql@latest",
        "adapters diff team/sql@3 ./out/sql-lora --exit-code",
        "adapters diff team/sql@1 team/sql@2 --all --format json",
    ],
)
@click.argument("left", type=Reference(), metavar="REF-or-PATH")
@click.argument("right", type=Reference(), metavar="REF-or-PATH")
@click.option("--all", "everything", is_flag=True, help=f"Every module, not only the {_TOP} that differ most.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 where any file differs.")
@click.pass_obj
def diff(invocation: Invocation, left: str, right: str, *, everything: bool, exit_code: bool) -> int:
    """Compare two adapters: config, modules, norms, subspaces, files.

    RELATIVE is the distance of both ΔW over the larger norm; COLUMNS and ROWS are the overlap of what they write to
    and read from: 1 the same subspace, 0 orthogonal ones; SIGNS is the share of elements with opposite signs, of a
    sample in large modules. A merge reports the same numbers of its parents. Exit code 0 whether or not they differ.
    """
    with bars(invocation) as progress:
        found = invocation.registry.diff(left, right, progress=progress)
    emit(
        invocation,
        found,
        human=lambda: _lines(found, everything=everything),
        quiet=lambda: [module.name for module in found.modules if module.change != "same"],
    )
    return 1 if exit_code and not found.same else 0


def _lines(found: DiffResult, *, everything: bool) -> Iterator[str]:
    yield from fields(
        {
            "left": f"{found.left.ref}  {found.left.digest or ''}".rstrip(),
            "right": f"{found.right.ref}  {found.right.digest or ''}".rstrip(),
            "config": "same" if found.summary.same_config else plural(len(found.config), "key") + " differ",
            "tensors": _tensors_words(found),
            "norms": None if found.summary.norms is None else " ".join(number(norm) for norm in found.summary.norms),
            "relative": None if found.summary.relative is None else number(found.summary.relative),
            "cosine": None if found.summary.cosine is None else number(found.summary.cosine),
            "shares": None if found.summary.shares is None else " ".join(map(percent, found.summary.shares)),
            "sign conflict": None if found.summary.sign_conflict is None else percent(found.summary.sign_conflict),
        }
    )
    sections = (
        _values("CONFIG", found.config),
        _modules(found.modules, everything=everything),
        _facts(found.modules, everything=everything),
        _things("OTHER TENSOR", found.tensors),
        _things("FILE", found.files),
    )
    for section in sections:
        shown = list(section)
        if shown:
            yield ""
            yield from shown


def _tensors_words(found: DiffResult) -> str:
    if found.summary.identical_tensors:
        return "identical"
    counts = [f"{count} {word.replace('_', ' ')}" for word, count in found.summary.modules.items() if count]
    return f"differ; modules: {', '.join(counts) or 'none'}"


def _values(title: str, values: Sequence[ValueDiff]) -> Iterator[str]:
    if values:
        yield from table((title, "LEFT", "RIGHT"), [(one.key, _short(one.left), _short(one.right)) for one in values])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _shown(modules: Sequence[ModuleDiff], *, everything: bool) -> list[ModuleDiff]:
    """What could not be compared first, then what differs most."""
    ranked = sorted(modules, key=lambda one: (one.reason is None, -(one.relative or 0.0)))
    return ranked if everything else [one for one in ranked if one.change != "same"][:_TOP]


def _modules(modules: Sequence[ModuleDiff], *, everything: bool) -> Iterator[str]:
    shown = _shown(modules, everything=everything)
    if not shown:
        return
    header = ("MODULE", "CHANGE", "NORM LEFT", "NORM RIGHT", "RELATIVE", "COSINE", "COLUMNS", "ROWS", "SIGNS")
    rows = [
        (
            one.name,
            one.change if one.reason is None else f"{one.change}, not compared: {one.reason}",
            number(one.norms[0]),
            number(one.norms[1]),
            number(one.relative),
            number(one.cosine),
            _overlap(one.columns),
            _overlap(one.rows),
            percent(one.sign_conflict),
        )
        for one in shown
    ]
    yield from table(header, rows, right=header[2:])
    more = sum(one.change != "same" for one in modules) - len(shown)
    if more > 0:
        yield f"and {plural(more, 'module')} that differ less; --all shows them"


def _facts(modules: Sequence[ModuleDiff], *, everything: bool) -> Iterator[str]:
    """Facts of modules that differ, those that say the same together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in modules:
        ranks_differ = any(fact.key == "rank" for fact in one.facts)
        for fact in one.facts:
            if ranks_differ and fact.key in ("a_shape", "b_shape"):
                continue  # the rank says it
            groups.setdefault((fact.key, _short(fact.left), _short(fact.right)), []).append(one.name)
    rows = [
        (key, left, right, " ".join(names) if everything or len(names) == 1 else plural(len(names), "module"))
        for (key, left, right), names in groups.items()
    ]
    if rows:
        yield from table(("FACT", "LEFT", "RIGHT", "MODULES"), rows)


def _overlap(spaces: SpaceDiff | None) -> str:
    return "-" if spaces is None else number(spaces.overlap)


def _things(title: str, things: Sequence[ThingDiff]) -> Iterator[str]:
    rows = [(one.path, one.change) for one in things if one.change != "same"]
    if rows:
        yield from table((title, "CHANGE"), rows)
