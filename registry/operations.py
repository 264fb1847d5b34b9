"""The one door from registry to the tensor half of engine: what crosses it is a verified path.

Everything is imported inside the function that needs it, so that push, pull, list and check work without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from engine.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.convert.pickled import Converted
    from engine.format.facts import BaseFacts

_HEAVY = frozenset({"torch", "transformers", "bitsandbytes"})


def merge_adapters(
    parents: Sequence[tuple[Path, float]],
    *,
    method: str,
    rank: int | Literal["max"] | None,
    dtype: str | None,
    out: Path,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Merge adapter folders into the new folder `out`; the report of design section 6, spectra included."""
    try:
        from engine.merge import RankRule, Source, merge
    except ModuleNotFoundError as error:
        raise _missing("merge", error) from None
    sources = [Source(path=path, weight=weight) for path, weight in parents]
    report = merge(sources, method=method, rule=RankRule(rank), dtype=dtype, out=out, progress=progress)
    return report.as_json()


def convert_pickled(source: int, out: Path, *, path: str) -> Converted:
    """Write the tensors of the pickle in an open file to the new safetensors file `out`; `path` is for messages.

    Imports no torch here: it runs in a process of its own, and only after the pickle was inspected.
    """
    from engine.convert.pickled import convert_pickled as convert

    return convert(source, out, path=path)


def tool_versions() -> dict[str, str]:
    """The versions that a merge's bytes depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("adapter-registry", "torch")}


def base_from_config(folder: Path) -> BaseFacts:
    """A base's layout from its config.json alone, through transformers on the meta device."""
    try:
        from engine.model.skeleton import layout_from_config
    except ModuleNotFoundError as error:
        raise _missing("base add from a config alone", error) from None
    return layout_from_config(folder)


def _missing(verb: str, error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(verb, package, "engine") if package in _HEAVY else error
