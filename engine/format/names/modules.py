"""Pairs the factors of a LoRA file into modules, with the rank and scaling that PEFT would give each."""

from __future__ import annotations

from collections import defaultdict
from math import sqrt
from typing import TYPE_CHECKING

from engine.format.configs.settings import WrongValue
from engine.format.facts import ModuleFacts
from engine.format.names.keys import Role, parse_key, wrapped_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.format.configs.patterns import Matcher
    from engine.format.facts import ModuleKind
    from engine.format.files.tensors import Header
    from engine.format.names.keys import TensorKey

_PAIRS: tuple[tuple[Role, Role], ...] = (("A", "B"), ("embedding_A", "embedding_B"))
FACTOR_ROLES: frozenset[Role] = frozenset(role for pair in _PAIRS for role in pair)
EXTRA_ROLES: frozenset[Role] = frozenset({"magnitude", "lora_bias", "diag", "velora", "monteclora"})

_KINDS: dict[int, ModuleKind] = {2: "linear", 3: "conv1d", 4: "conv2d", 5: "conv3d"}


def build_modules(header: Header, matcher: Matcher) -> tuple[tuple[ModuleFacts, ...], dict[str, tuple[str, ...]]]:
    """The complete pairs, sorted by module path, and the modules that miss a half, with the tensors they have.

    Raises WrongValue for a module whose effective rank is not positive, PatternError for a stored expression.
    """
    grouped: dict[str, list[TensorKey]] = defaultdict(list)
    for key in map(parse_key, header.tensors):
        if key.role in FACTOR_ROLES or key.role in EXTRA_ROLES:
            grouped[key.module].append(key)
    modules: list[ModuleFacts] = []
    incomplete: dict[str, tuple[str, ...]] = {}
    for name in sorted(grouped):
        pair = _pair(grouped[name])
        if pair is None:
            incomplete[name] = tuple(sorted(key.name for key in grouped[name]))
        else:
            modules.append(_module(name, pair, grouped[name], header, matcher))
    return tuple(modules), incomplete


def parameter_names(module: str, targets: Iterable[str]) -> tuple[str, ...]:
    """The entries of target_parameters that may name a parameter held by `module` itself."""
    found = []
    for target in targets:
        parent = target.rpartition(".")[0]
        if not parent or module == parent or module.endswith(f".{parent}"):
            found.append(target)
    return tuple(found)


def _pair(keys: list[TensorKey]) -> tuple[str, str] | None:
    by_role = {key.role: key.name for key in keys if key.role in FACTOR_ROLES}
    for a_role, b_role in _PAIRS:
        if by_role.keys() == {a_role, b_role}:
            return by_role[a_role], by_role[b_role]
    return None


def _module(name: str, pair: tuple[str, str], keys: list[TensorKey], header: Header, matcher: Matcher) -> ModuleFacts:
    a, b = header.tensors[pair[0]], header.tensors[pair[1]]
    kind = _kind(name, {key.role for key in keys}, len(a.shape), matcher)
    rank, alpha = _effective(wrapped_path(name), kind, matcher)
    if rank <= 0:
        raise WrongValue(f"rank of {name}", "a positive integer", rank)
    return ModuleFacts(
        name=name,
        kind=kind,
        rank=rank if kind == "parameter" or not a.shape else a.shape[0],
        alpha=alpha,
        scaling=alpha / (sqrt(rank) if matcher.lora.use_rslora else rank),
        a_shape=a.shape,
        b_shape=b.shape,
        dtype=a.dtype,
        a_key=a.name,
        b_key=b.name,
        extras=tuple(sorted(key.name for key in keys if key.name not in pair)),
        configured_rank=rank,
    )


def _kind(name: str, roles: set[Role], dimensions: int, matcher: Matcher) -> ModuleKind:
    if "embedding_A" in roles:
        return "embedding"
    if dimensions == 2 and _holds_parameter(wrapped_path(name), matcher):
        return "parameter"
    return _KINDS.get(dimensions, "unknown")


def _holds_parameter(module: str, matcher: Matcher) -> bool:
    """Whether the factors come from target_parameters; PEFT lets no module be both."""
    targets = matcher.lora.target_parameters
    return bool(targets) and bool(parameter_names(module, targets or ())) and not matcher.names(module)


def _effective(module: str, kind: ModuleKind, matcher: Matcher) -> tuple[int, float]:
    """A parameter's patterns are matched against `<module>.<parameter>`, whose name the file does not hold."""
    if kind != "parameter":
        return matcher.effective(module)
    leaves = {target.rpartition(".")[2] for target in parameter_names(module, matcher.lora.target_parameters or ())}
    choices = {matcher.effective(f"{module}.{leaf}") for leaf in leaves}
    return max(choices)
