"""Diff: what two adapters have in common and where they differ, each a stored version or a folder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.format.adapter import read_adapter
from engine.format.files.digest import combined, tensor_hashes
from engine.format.numbers.pairing import compare_modules
from engine.format.numbers.subspaces import together
from registry.differences import DiffResult, DiffSide, DiffSummary, ModuleDiff, SpaceDiff, ThingDiff, ValueDiff
from registry.files.intake import scan
from registry.files.transfer import hash_file
from registry.pulls.entry import files_of_entry
from registry.pulls.pull import pull
from registry.values.progress import silent
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.format.configs.config import AdapterConfig
    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.format.numbers.pairing import Compared
    from engine.format.numbers.subspaces import Contrast, Spaces
    from registry.differences import Change
    from registry.handle import Handle
    from registry.values.progress import Progress

# PEFT turns these lists into sets before it writes them, so their order says nothing.
_SETS = frozenset({"target_modules", "exclude_modules", "modules_to_save", "target_parameters"})
_PATTERNS = frozenset({"rank_pattern", "alpha_pattern"})
_FACTS = ("kind", "rank", "alpha", "scaling", "a_shape", "b_shape", "dtype")
_MOST = 5


@dataclass(frozen=True, slots=True)
class _Side:
    """One adapter, read: its files' digests by path, and the sha256 of every tensor."""

    side: DiffSide
    facts: AdapterFacts
    files: Mapping[str, str]
    tensors: Mapping[str, str]

    @property
    def tensors_digest(self) -> str:
        return combined(self.facts.header, self.tensors)


def diff(handle: Handle, left: str, right: str, *, progress: Progress = silent) -> DiffResult:
    """Compare two adapters, each a reference or a path. A version is pulled first, so its bytes are verified.

    Raises what `check` raises for a folder that is no adapter. Holds the factors of one module at a time.
    """
    one, other = _read(handle, left), _read(handle, right)
    found = _modules(one, other, progress)
    modules = tuple(_module(one, other, compared) for compared in found)
    config = _config(one.facts.config, other.facts.config)
    files = _things(one.files, other.files)
    summary = _summary(one, other, config, [item.contrast for item in found if item.contrast is not None], modules)
    return DiffResult(
        left=one.side,
        right=other.side,
        same=all(file.change == "same" for file in files),
        config=config,
        modules=modules,
        tensors=_others(one, other),
        files=files,
        summary=summary,
    )


def _read(handle: Handle, target: str) -> _Side:
    if is_path(target):
        folder, side = Path(target).expanduser(), DiffSide(target, None)
        files = _hashed(folder)
    else:
        pulled = pull(handle, handle.ref(target))
        folder, side = pulled.path, DiffSide(pulled.ref, pulled.digest)
        files = {entry.path: entry.sha256 for entry in files_of_entry(folder)}  # what --include added, too
    facts = read_adapter(folder)
    return _Side(side, facts, files, tensor_hashes(facts.weights, facts.header))


def _hashed(folder: Path) -> dict[str, str]:
    files = {}
    for file in scan(folder).files:
        with file.open() as descriptor:
            files[file.path] = hash_file(descriptor).digest
    return files


def _modules(one: _Side, other: _Side, progress: Progress) -> list[Compared]:
    total = len({module.name for side in (one, other) for module in side.facts.modules})
    found = []
    for done, compared in enumerate(compare_modules(one.facts, other.facts), 1):
        found.append(compared)
        progress("comparing modules", done, total)
    return found


def _module(one: _Side, other: _Side, compared: Compared) -> ModuleDiff:
    left, right = compared.left, compared.right
    changes = () if left is None or right is None else _facts(left, right)
    change = _change(left, right, same=not changes and _equal_factors(one, other, compared))
    found = compared.contrast
    norms: tuple[float | None, float | None] = (None, None)
    if found is not None:
        norms = (None if left is None else found.norms[0], None if right is None else found.norms[1])
    return ModuleDiff(
        name=compared.name,
        change=change,
        facts=changes,
        norms=norms,
        distance=None if found is None else found.distance,
        relative=None if found is None else found.relative,
        cosine=None if found is None else found.cosine,
        columns=None if found is None else _space(found.columns),
        rows=None if found is None else _space(found.rows),
        reason=compared.reason,
        shares=None if found is None else found.shares,
        sign_conflict=None if found is None else found.signs.conflict,
        elements=None if found is None else found.signs.elements,
    )


def _equal_factors(one: _Side, other: _Side, compared: Compared) -> bool:
    if compared.left is None or compared.right is None:
        return False
    ours = [one.tensors[key] for key in (compared.left.a_key, compared.left.b_key)]
    return ours == [other.tensors[key] for key in (compared.right.a_key, compared.right.b_key)]


def _facts(left: ModuleFacts, right: ModuleFacts) -> tuple[ValueDiff, ...]:
    pairs = [(name, getattr(left, name), getattr(right, name)) for name in _FACTS]
    return tuple(ValueDiff(name, ours, theirs) for name, ours, theirs in pairs if ours != theirs)


def _change(left: object, right: object, *, same: bool) -> Change:
    if left is None:
        return "added"
    if right is None:
        return "removed"
    return "same" if same else "changed"


def _space(spaces: Spaces) -> SpaceDiff:
    return SpaceDiff(spaces.ranks, spaces.overlap, spaces.angles)


def _config(left: AdapterConfig, right: AdapterConfig) -> tuple[ValueDiff, ...]:
    """Keys whose values differ. One that is absent counts as PEFT's default, where that is known."""
    keys = sorted({*left.raw, *right.raw})
    pairs = [(key, _value(left, key), _value(right, key)) for key in keys]
    return tuple(
        ValueDiff(key, ours, theirs) for key, ours, theirs in pairs if _plain(key, ours) != _plain(key, theirs)
    )


def _value(config: AdapterConfig, key: str) -> Any:
    if key in config.raw or config.lora is None:
        return config.raw.get(key)
    known = {item.name for item in fields(config.lora)}
    value = getattr(config.lora, key) if key in known else None
    return list(value) if isinstance(value, tuple) else value


def _plain(key: str, value: Any) -> Any:
    """What two values are compared by: some lists are sets, and the order of a pattern's entries decides."""
    if key in _SETS and isinstance(value, list):
        return sorted(value, key=repr)
    return list(value.items()) if key in _PATTERNS and isinstance(value, dict) else value


def _others(one: _Side, other: _Side) -> tuple[ThingDiff, ...]:
    """Tensors that are no factor of a module (full copies, biases, magnitudes, …), by their bytes."""
    factors = {key for side in (one, other) for item in side.facts.modules for key in (item.a_key, item.b_key)}
    sides = []
    for side in (one, other):
        infos = side.facts.header.tensors.items()
        named = {name: f"{info.dtype} {list(info.shape)} {side.tensors[name]}" for name, info in infos}
        sides.append({name: text for name, text in named.items() if name not in factors})
    return tuple(ThingDiff(thing.path, thing.change, None, None) for thing in _things(*sides))


def _things(left: Mapping[str, str], right: Mapping[str, str]) -> tuple[ThingDiff, ...]:
    return tuple(
        ThingDiff(
            name,
            _change(left.get(name), right.get(name), same=left.get(name) == right.get(name)),
            left.get(name),
            right.get(name),
        )
        for name in sorted(left.keys() | right.keys())
    )


def _summary(
    one: _Side,
    other: _Side,
    config: tuple[ValueDiff, ...],
    contrasts: Sequence[Contrast],
    modules: tuple[ModuleDiff, ...],
) -> DiffSummary:
    whole = together(contrasts) if contrasts else None
    counts = {
        word: sum(module.change == word for module in modules) for word in ("same", "changed", "added", "removed")
    }
    ranked = sorted(modules, key=lambda module: module.relative or 0.0, reverse=True)
    return DiffSummary(
        same_config=not config,
        identical_tensors=one.tensors_digest == other.tensors_digest,
        modules={**counts, "not_compared": sum(module.reason is not None for module in modules)},
        norms=None if whole is None else whole.norms,
        distance=None if whole is None else whole.distance,
        relative=None if whole is None else whole.relative,
        cosine=None if whole is None else whole.cosine,
        columns_overlap=None if whole is None else whole.columns.overlap,
        rows_overlap=None if whole is None else whole.rows.overlap,
        most_different=tuple(module.name for module in ranked[:_MOST] if module.relative),
        shares=None if whole is None else whole.shares,
        sign_conflict=None if whole is None else whole.signs.conflict,
        elements=None if whole is None else whole.signs.elements,
    )
