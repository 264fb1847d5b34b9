"""A merge's report for people: what was measured, and no judgement of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.cli.shown.text import fields, number, percent, plural, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.browse.rankneeds import RanksFor

_WORST = 5  # modules shown to a person; `show --format json` has all


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report of a merge: the whole, each parent's part, every two parents, ranks, the modules that lost most.

    One stored by an older version lacks some of it.
    """
    yield from fields(_whole(report))
    names = [_name(place, parent) for place, parent in enumerate(report["parents"], 1)]
    sections = (
        _parents(names, report["parents"]),
        _pairs(names, report.get("pairs") or ()),
        _ranks(report.get("ranks_for") or ()),
        _worst(report.get("per_module") or ()),
    )
    for section in sections:
        shown = list(section)
        if shown:
            yield ""
            yield from shown


def need_lines(found: RanksFor) -> Iterator[str]:
    """The rank that each module needs to keep a share of it."""
    rows = [
        (name, f">{found.more_than[name]}" if name in found.more_than else number(rank))
        for name, rank in found.modules.items()
    ]
    yield from table((f"TO KEEP {_share(found.share)} OF", "RANK"), rows, right=("RANK",))


def _whole(report: Mapping[str, Any]) -> dict[str, str | None]:
    told = {
        "truncation error": number(report.get("truncation_error")),
        "over the best": f"at most {number(report['bound'])} times" if report.get("bound") else "-",
        "rounding error": number(report.get("rounding_error")),
        "swallowed by dtype": percent(report.get("swallowed")),
        "swallowed by base": percent(report.get("swallowed_by_base")),
        "norm inflation": number(report.get("norm_inflation")),
    }
    return {
        "method": str(report.get("method", "-")),
        "rank": number(report.get("rank")),
        "dtype": report.get("dtype"),
        "modules": number(report.get("modules")),
        "energy kept": percent(report.get("energy_kept")),
        "relative error": number(report.get("relative_error")),
        **{label: text for label, text in told.items() if text != "-"},
    }


def _name(place: int, parent: Mapping[str, Any]) -> str:
    return str(parent.get("ref") or parent.get("digest") or place)


def _parents(names: Sequence[str], parents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    header = ("PARENT", "WEIGHT", "NORM", "SHARE", "COSINE", "RETENTION")
    rows = [
        (
            name,
            number(parent.get("weight")),
            number(parent.get("norm")),
            percent(parent.get("share")),
            number(parent.get("cosine")),
            number(parent.get("retention")),
        )
        for name, parent in zip(names, parents, strict=True)
    ]
    yield from table(header, rows, right=header[1:])


def _pairs(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    header = ("PARENT", "AND PARENT", "COSINE", "COLUMNS", "ROWS", "SIGN CONFLICT")
    rows = [
        (
            *(names[place] for place in pair["parents"]),
            number(pair["cosine"]),
            number(pair["columns_overlap"]),
            number(pair["rows_overlap"]),
            percent(pair["sign_conflict"]),
        )
        for pair in pairs
    ]
    if rows:
        yield from table(header, rows, right=header[2:])


def _ranks(needs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    header = ("TO KEEP OF EVERY MODULE", "LARGEST RANK", "MEDIAN", "FILE ABOUT")
    rows = []
    for need in (need for need in needs if need["largest"] is not None):
        over = ">" if need["more_than"] else ""
        file = f"{over}{size(need['size'])}"
        rows.append((_share(need["share"]), f"{over}{need['largest']}", number(need["median"]), file))
    if rows:
        yield from table(header, rows, right=header[1:])
        if needs[0]["unknown"]:
            yield f"without {plural(needs[0]['unknown'], 'module')} whose spectrum is not known"


def _share(share: float) -> str:
    return f"{100 * share:g} %"


def _worst(modules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lossy = [module for module in modules if (module.get("relative_error") or 0) > 0]
    shown = sorted(lossy, key=lambda module: float(module["relative_error"]), reverse=True)[:_WORST]
    rows = [
        (
            str(module["name"]),
            number(module.get("rank")),
            percent(module.get("energy_kept")),
            number(module.get("relative_error")),
        )
        for module in shown
    ]
    if rows:
        header = ("LEAST EXACT MODULES", "RANK", "ENERGY KEPT", "RELATIVE ERROR")
        yield from table(header, rows, right=header[1:])
