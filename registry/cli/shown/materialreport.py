"""The verification of a materialised result for people: the whole, and the modules that came out least exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.cli.shown.text import fields, number, percent, plural, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WORST = 5  # modules shown to a person; `artifacts show --format json` has all


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Realised against intended change, overall and for the worst modules; nothing where nothing was measured."""
    told = {
        "rank": number(report.get("rank")),
        "adapted": None if report.get("adapted") is None else plural(report["adapted"], "module"),
        "zeros": plural(report["zeros"], "module") + " without a change" if report.get("zeros") else None,
        "rewrites": ", ".join(report.get("rewrites") or ()) or None,
        "rounded": _rounded(report),
        "images": ", ".join(_images(report.get("images") or {})) or None,
        "class": _class(report.get("headed")),
        "modules": number(report.get("modules")),
        "copied": None if report.get("copied") is None else f"{report['copied']} tensors, bit for bit",
        "cosine": _cosine(report.get("cosine")),
        "relative error": number(report.get("relative_error")),
        "swallowed": percent(report.get("swallowed")),
        "kept": percent(report.get("kept")),
    }
    shown = {name: text for name, text in told.items() if text not in (None, "-")}
    if shown:
        yield ""
        yield from fields(shown)
    worst = list(_worst(report.get("per_module") or ()))
    if worst:
        yield ""
        yield from worst


def _worst(modules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    inexact = [module for module in modules if (module.get("relative_error") or 0) > 0]
    order = sorted(inexact, key=lambda one: (-float(one.get("swallowed") or 0), -float(one["relative_error"])))[:_WORST]
    rows = [
        (
            str(module["name"]),
            _cosine(module.get("cosine")),
            number(module.get("relative_error")),
            percent(module.get("swallowed")),
        )
        for module in order
    ]
    if rows:
        header = ("LEAST EXACT MODULES", "COSINE", "RELATIVE ERROR", "SWALLOWED")
        yield from table(header, rows, right=header[1:])


def _rounded(report: Mapping[str, Any]) -> str | None:
    if not report.get("rounded"):
        return None
    return f"{plural(report['rounded'], 'tensor')}, none by more than {number(report['largest_change'])} of its norm"


def _images(images: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """By the names that a runtime asks for."""
    for name, one in images.items():
        yield name if one["exact"] else f"{name} (rounded)"


def _class(headed: Mapping[str, Any] | None) -> str | None:
    """The model's class, where it is another than the base's, and what that costs."""
    if headed is None:
        return None
    text = f"{headed['architecture']}, of the base: {headed['of_base'] or 'not told'}"
    left = headed["left_out"]
    return f"{text}; {plural(len(left), 'tensor')} of it left out" if left else text


def _cosine(value: float | None) -> str:
    """Six figures: what bf16 loses begins behind the third nine."""
    return "-" if value is None else f"{value:.6f}"
