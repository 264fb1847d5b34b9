"""Tables with another number of rows than the base's: the whole model follows, or the adapter is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.matching.copies import is_output_bias, is_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.materialize.outputs import Output

_KEY = "vocab_size"


def resized(config: Mapping[str, Any], before: Mapping[str, int], tables: Sequence[Output]) -> dict[str, Any]:
    """The keys of config.json for tables that have other numbers of rows than `before`, by name.

    Raises RefusedError where some have and others keep the base's, which no model can be.
    """
    found = {output.name: output.source.shape[0] for output in tables if output.name in before}
    changed = {name: rows for name, rows in found.items() if rows != before[name]}
    if not changed:
        return {}
    old = {before[name] for name in changed}
    whole = {name: rows for name, rows in found.items() if before[name] in old}
    if len(set(whole.values())) > 1:
        told = ", ".join(f"{name} {rows} rows" for name, rows in whole.items())
        message = f"{_KEY}: expected tables of one size, found {told}; the adapter has not all of them"
        raise RefusedError([Finding("vocabulary-sizes", "error", message, where=next(iter(changed)))])
    return _settings(config, old, next(iter(changed.values())))


def tables_of(outputs: Sequence[Output]) -> list[Output]:
    """The tables of tokens, those of an input and of an output, and the biases of these."""
    lengths = {output.name: len(output.source.shape) for output in outputs}
    return [
        output
        for output in outputs
        if (lengths[output.name] == 2 and is_table(output.name))
        or (lengths[output.name] == 1 and is_output_bias(output.name))
    ]


def _settings(config: Mapping[str, Any], old: set[int], rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {_KEY: rows} if config.get(_KEY) in old else {}
    inner = config.get("text_config")
    if isinstance(inner, dict) and inner.get(_KEY) in old:
        found["text_config"] = {**inner, _KEY: rows}
    return found
