"""A merge written down as YAML: parents with weights, the method and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.browse.filters import parse_size
from registry.errors import IntakeError, UsageError
from registry.merges.combination import Combination, from_parameters
from registry.merges.weighting import Weighting, parse_weighting

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1 << 20
_KEYS = {"method", "parents", "parameters"}
_PARENT_KEYS = {"ref", "weight"}


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """References as written, and their weights: None where the file gives none."""

    refs: tuple[str, ...]
    weights: tuple[Weighting, ...] | None
    combination: Combination


def read_spec(path: Path) -> MergeSpec:
    """Reads a recipe file.

    IntakeError where it cannot be read or is no YAML; UsageError, with the place, for what is no recipe.
    """
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise IntakeError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > LARGEST:
        raise IntakeError(f"{path}: larger than {LARGEST} bytes")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise IntakeError(f"{path}: YAML aliases are not read in a recipe")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f" (line {line + 1})"
        raise IntakeError(f"{path}: not YAML{at}") from error
    return parse_spec(document, where=str(path))


def parse_spec(document: Any, *, where: str = "recipe") -> MergeSpec:
    """A recipe from plain data: `parents` (`ref` and perhaps `weight` each), `method`, `parameters`."""
    if not isinstance(document, dict) or not document.get("parents"):
        raise UsageError(f"{where}: expected a mapping with parents, and perhaps method and parameters")
    if unknown := sorted(str(key) for key in document.keys() - _KEYS):
        raise UsageError(f"{where}: {unknown[0]!r} is no key of a recipe: expected {', '.join(sorted(_KEYS))}")
    parents = document["parents"]
    if not isinstance(parents, list):
        raise UsageError(f"{where}: parents: expected a list")
    pairs = [_parent(value, f"{where}: parent {place}") for place, value in enumerate(parents, 1)]
    given = [weight for _, weight in pairs if weight is not None]
    if given and len(given) < len(pairs):
        raise UsageError(f"{where}: {len(given)} of {len(pairs)} parents have a weight: expected all or none")
    refs = tuple(ref for ref, _ in pairs)
    return MergeSpec(refs, tuple(given) or None, _combination(document, where))


def _parent(value: Any, where: str) -> tuple[str, Weighting | None]:
    if isinstance(value, str):
        return value, None
    if not isinstance(value, dict) or not value.keys() <= _PARENT_KEYS or not isinstance(value.get("ref"), str):
        raise UsageError(f"{where}: expected a reference, or ref and weight, found {value!r}")
    weight = value.get("weight")
    return value["ref"], None if weight is None else parse_weighting(weight, where=f"{where}: weight")


def _combination(document: dict[Any, Any], where: str) -> Combination:
    method, parameters = document.get("method", "svd"), document.get("parameters") or {}
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise UsageError(f"{where}: expected method as a name and parameters as a mapping")
    said = {str(key).replace("-", "_"): value for key, value in parameters.items()}
    if isinstance(said.get("budget"), str):
        said["budget"] = parse_size(said["budget"])
    try:
        return from_parameters(method, said)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
