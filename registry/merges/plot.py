"""A merge's report as a picture over the layers: one panel a measure, one colour a parent. Needs the extra `plot`."""

from __future__ import annotations

import math
import os
import re
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any

from engine.errors import MissingExtraError
from registry.errors import ConflictError, UsageError
from registry.files.newfile import new_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")

_WHOLE = {"energy_kept": "energy kept", "relative_error": "relative error"}
_PARENT = {"cosine": "cosine with the parent", "retention": "retention", "share": "share"}
_TICKS = 24  # labels that fit side by side
_NUMBER = re.compile(r"(\d+)", re.ASCII)

# bundled with matplotlib; a $ in a name is no formula; ids in an SVG come from a salt instead of from chance
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False, "svg.hashsalt": "adapter-registry"}


def check_plot(to: Path) -> None:
    """Whether a picture can be drawn there, before anything is merged.

    UsageError for a name that does not end in .png or .svg, ConflictError where something exists already,
    MissingExtraError without matplotlib.
    """
    if _format(to) not in FORMATS:
        raise UsageError(f"{to}: a report is drawn as {' or '.join('.' + one for one in FORMATS)}, by the file's name")
    if os.path.lexists(to):
        raise ConflictError(f"{to} exists already", hint="name a file that does not exist")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("drawing a report", "matplotlib", "plot")


def draw(report: Mapping[str, Any], to: Path) -> None:
    """Draws the report of a merge, as a MergeResult or `show` has it, into the new file `to`.

    Equal reports give equal SVG files under one version of matplotlib. Raises what `check_plot` does.
    """
    check_plot(to)
    from matplotlib import rc_context, style

    form = _format(to)
    with new_file(to) as path, style.context("default"), rc_context(_STYLE):  # type: ignore[arg-type] # known keys
        _figure(report).savefig(path, format=form, dpi=144, metadata={"Date": None} if form == "svg" else None)


def layers(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Modules by layer, both in natural order (`layers.2` before `layers.10`). A layer ends in the first number among
    the parts of a name; a module without one is a layer of its own.
    """
    return [(layer, list(group)) for layer, group in groupby(sorted(names, key=_natural), key=_layer)]


def _format(to: Path) -> str:
    return to.suffix.removeprefix(".").lower()


def _natural(name: str) -> tuple[tuple[tuple[int, str], ...], ...]:
    """Numbers by value, and only among each other."""
    pieces = [_NUMBER.split(part) for part in name.split(".")]
    return tuple(tuple((int(text), "") if text.isdecimal() else (-1, text) for text in part) for part in pieces)


def _layer(name: str) -> str:
    parts = name.split(".")
    last = next((place for place, part in enumerate(parts) if _NUMBER.fullmatch(part)), len(parts) - 1)
    return ".".join(parts[: last + 1])


def _figure(report: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    modules = {module["name"]: module for module in report["per_module"]}
    found = layers(list(modules))
    ordered = [modules[name] for _, names in found for name in names]
    figure = Figure(figsize=(min(24.0, max(8.0, 0.06 * len(ordered))), 11.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(_WHOLE) + len(_PARENT), 1, sharex=True))
    sizes = [len(names) for _, names in found]
    for axes, (key, label) in zip(panels, _WHOLE.items(), strict=False):
        _series(axes, _values(ordered, key), sizes, colour="black", name=label)
        axes.set_ylabel(label)
    for axes, (key, label) in zip(panels[len(_WHOLE) :], _PARENT.items(), strict=True):
        for place, parent in enumerate(report["parents"]):
            name = str(parent.get("ref") or f"parent {place + 1}")
            own = [module["parents"][place] for module in ordered]
            _series(axes, _values(own, key), sizes, colour=f"C{place}", name=name)
        axes.set_ylabel(label)
    _layer_axis(panels, found)
    count = len(report["parents"])
    adapters = "adapter" if count == 1 else "adapters"
    figure.suptitle(f"{report['method']} of {count} {adapters}, rank {report['rank']}: modules as dots, layers' means")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _series(axes: Axes, values: Sequence[float], sizes: Sequence[int], *, colour: str, name: str) -> None:
    """A dot for each module, and a line through the means of the layers, whose modules count `sizes`."""
    axes.scatter(range(len(values)), values, s=5, color=colour, alpha=0.4, linewidths=0)
    centres, means, start = [], [], 0
    for count in sizes:
        known = [value for value in values[start : start + count] if not math.isnan(value)]
        centres.append(start + (count - 1) / 2)
        means.append(math.fsum(known) / len(known) if known else math.nan)
        start += count
    axes.plot(centres, means, ".-", color=colour, linewidth=1, markersize=4, label=name)


def _layer_axis(panels: Sequence[Axes], found: Sequence[tuple[str, list[str]]]) -> None:
    """A line where a layer begins and its name below the last panel, as many names as fit."""
    starts, start = [], 0
    for _, names in found:
        starts.append(start)
        start += len(names)
    every = math.ceil(len(found) / _TICKS)
    labels = [".".join(layer.split(".")[-2:]) for layer, _ in found]
    for axes in panels:
        axes.set_xticks(starts[::every], labels[::every], rotation=60, ha="right")
        axes.grid(visible=True, axis="both", linewidth=0.4, alpha=0.5)
        axes.margins(x=0.01, y=0.1)


def _values(items: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Null becomes a gap."""
    return [math.nan if item.get(key) is None else float(item[key]) for item in items]
