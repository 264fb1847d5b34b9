"""The one door from registry to the tensor half of engine: what crosses it is a verified path.

Everything is imported inside the function that needs it, so that push, pull, list and check work without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from logging import LogRecord
    from pathlib import Path

    from engine.compat.engines.table import EngineTarget
    from engine.compat.finding import Finding
    from engine.convert.pickled import Converted
    from engine.format.facts import BaseFacts
    from engine.materialize import Request
    from engine.merge import WeightRule
    from registry.merges.combination import Combination
    from registry.merges.weighting import Weighting

_CPU_KERNELS = "bitsandbytes.backends.cpu.ops"
_HEAVY = frozenset({"torch", "transformers", "bitsandbytes"})


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A parent of a merge: its folder, its weight, and the digest that names its tensors."""

    path: Path
    weight: Weighting
    digest: str | None = None


def merge_adapters(
    parents: Sequence[Ingredient],
    combination: Combination,
    weights: Sequence[Sequence[Weighting]],
    outs: Sequence[Path],
    *,
    base: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Merge adapter folders into the new folders `outs`, one for each row of `weights`; a report (design section 6)
    each, spectra included. `base` is a checkpoint folder for what depends on base weights.
    """
    try:
        from engine.merge import Options, RankRule, Source, Weight, apply_grid, plan
    except ModuleNotFoundError as error:
        raise _missing("merge", error) from None
    options = dict(combination.options)
    planned = plan(
        [Source(one.path, *_weight(one.weight), one.digest) for one in parents],
        method=combination.method,
        rule=RankRule(combination.rank, combination.energy, combination.budget),
        options=Options(scale=options.pop("lambda", None), **options),
        dtype=combination.dtype,
        semantics=combination.semantics,
        other=combination.other,
        base=base,
    )
    rows = [[Weight(*_weight(one)) for one in row] for row in weights]
    return [one.as_json() for one in apply_grid(planned, rows, outs, jobs=jobs, device=device, progress=progress)]


def _weight(weighting: Weighting) -> tuple[float, tuple[WeightRule, ...]]:
    from engine.merge import WeightRule

    rules = tuple(WeightRule(rule.weight, rule.modules, rule.layers) for rule in weighting.rules)
    return weighting.default, rules


def convert_pickled(source: int, out: Path, *, path: str) -> Converted:
    """Write the tensors of the pickle in an open file to the new safetensors file `out`; `path` is for messages.

    Imports no torch here: it runs in a process of its own, and only after the pickle was inspected.
    """
    from engine.convert.pickled import convert_pickled as convert

    return convert(source, out, path=path)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What a rewrite did: its steps in order, the largest rank after it, how many tensors hold a rounded number and the
    largest relative change of one (Frobenius), and what the rules say of the result.
    """

    rewrites: tuple[str, ...]
    rank: int | None
    rounded: int
    largest_change: float
    findings: tuple[Finding, ...]


def rewrite_adapter(
    folder: Path,
    out: Path,
    *,
    target: EngineTarget,
    base: BaseFacts | None = None,
    files: Sequence[str] = (),
    initial: Path | None = None,
    rank: int | None = None,
) -> Rewriting:
    """Write an adapter's configuration and weights, as `target` takes them, into the empty folder `out`.

    Imports no torch: factors are scaled and laid beside each other by numpy.
    """
    from engine.convert.rewrite.apply import apply_rewrites
    from engine.convert.rewrite.plan import plan_rewrites
    from engine.format.adapter import read_adapter

    begun = None if initial is None else read_adapter(initial)
    plan = plan_rewrites(read_adapter(folder), target, base=base, files=files, initial=begun, rank=rank)
    done = apply_rewrites(plan, out)
    return Rewriting(plan.rewrites, plan.draft.facts().rank, done.rounded, done.largest_change, plan.findings)


def rewrite_versions() -> dict[str, str]:
    """The versions that a rewrite's bytes depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("adapter-registry", "numpy")}


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter of a materialisation: its folder, its weight, its digest, and what reports call it."""

    path: Path
    weight: float
    digest: str | None
    name: str


@dataclass(frozen=True, slots=True)
class MadeFiles:
    """What a materialisation wrote: sha256, dtype, shape and file of each tensor, and the report as plain data."""

    tensors: Mapping[str, Mapping[str, Any]]
    report: Mapping[str, Any]


def materialize_merged(
    parts: Sequence[Part],
    base: Path,
    to: Path,
    *,
    options: Mapping[str, Any],
    jobs: int | None = None,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> MadeFiles:
    """Write the checkpoint `base` with the adapters in its weights to the new folder `to`. `options` are those of
    engine.materialize.Request.
    """
    _hush()
    try:
        from engine.materialize import materialize
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None
    done = materialize(_request(parts, base, options), to, jobs=jobs, resume=resume, progress=progress)
    return MadeFiles(done.tensors, done.report)


def plan_merged(parts: Sequence[Part], base: Path, to: Path, *, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `materialize_merged` would write, from headers alone: files, bytes, and how many tensors change."""
    _hush()
    try:
        from engine.materialize.plan import plan
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None
    planned = plan(_request(parts, base, options), to)
    changed = sum(1 for task in planned.tasks if task.changes)
    return {
        "size": planned.size,
        "files": [{"name": shard.file.name, "size": shard.size} for shard in planned.shards],
        "modules": changed,
        "copied": len(planned.tasks) - changed,
        **({} if planned.headed is None else {"headed": planned.headed.as_json()}),
    }


def _request(parts: Sequence[Part], base: Path, options: Mapping[str, Any]) -> Request:
    from engine.materialize import Request, Source

    sources = tuple(Source(one.path, one.weight, one.digest, one.name) for one in parts)
    return Request(base=base, sources=sources, **options)


def pad_adapter(folder: Path, out: Path, *, rank: int | None) -> dict[str, Any]:
    """Write an adapter to the new folder `out`: as it is, or with `rank` padded by zeros."""
    try:
        from engine.materialize.padded import write_padded
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None
    done = write_padded(folder, out, rank=rank)
    return {
        "rank": done.rank,
        "adapted": done.modules,
        "zeros": done.zeros,
        "rounded": done.rounded,
        "largest_change": done.largest_change,
    }


def write_images(
    folders: Mapping[str, Path], out: Path, *, base: Path | None, rank: int | None, dtype: str | None
) -> dict[str, Any]:
    """Write adapters, by name, as images of one layout to the new file `out`."""
    try:
        from engine.materialize.hotswap import write_images as write
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None
    done = write(folders, out, base=base, target_rank=rank, dtype=dtype)
    return {
        "class": done.swap_class.digest,
        "rank": done.swap_class.target_rank,
        "dtype": done.swap_class.dtype,
        "adapted": len(done.swap_class.modules),
        "images": {
            one.name: {"size": one.size, "sha256": one.sha256, "exact": one.exact} for one in done.images.values()
        },
    }


def measure_again(folder: Path, base: Path | None = None, parts: Sequence[Part] = ()) -> dict[str, Any]:
    """Hash every byte of a merged checkpoint against its own list; with the base and the adapters it was made from,
    measure again what of them is in each weight. Tensors, files, and the report (None without base).
    """
    _hush()
    try:
        from engine.materialize import Source
        from engine.materialize.verify import verify
    except ModuleNotFoundError as error:
        raise _missing("artifacts verify", error) from None
    found = verify(folder, base, [Source(one.path, one.weight, one.digest, one.name) for one in parts])
    return {"tensors": found.tensors, "files": found.files, "extra": list(found.extra), "report": found.report}


def dtype_name(text: str) -> str:
    """Safetensors' name of a dtype that a person wrote; OptionError for one that no result can have."""
    try:
        from engine.merge.dtypes import parse_dtype
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None
    return parse_dtype(text)


def materialize_versions(quantize: str | None) -> dict[str, str]:
    """The versions that a materialisation's bytes depend on."""
    from importlib.metadata import version

    names = ("adapter-registry", "numpy", "torch", *(("bitsandbytes", "transformers") if quantize else ()))
    try:
        return {name: version(name) for name in names}
    except ModuleNotFoundError as error:
        raise _missing("materialize", error) from None


def tool_versions() -> dict[str, str]:
    """The versions that a merge's bytes depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("adapter-registry", "numpy", "torch")}


def base_from_config(folder: Path) -> BaseFacts:
    """A base's layout from its config.json alone, through transformers on the meta device."""
    try:
        from engine.model.skeleton import layout_from_config
    except ModuleNotFoundError as error:
        raise _missing("base add from a config alone", error) from None
    return layout_from_config(folder)


def _hush() -> None:
    """On some processors bitsandbytes warns, at its import, of a package with a faster product for one layer. Nothing
    here multiplies by packed weights, and who reads it on stderr takes it for an error of theirs.
    """
    import logging

    logging.getLogger(_CPU_KERNELS).addFilter(_is_of_interest)


def _is_of_interest(record: LogRecord) -> bool:
    return not record.msg.startswith("Failed to load CPU gemm_4bit_forward")


def _missing(verb: str, error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(verb, package, "engine") if package in _HEAVY else error
