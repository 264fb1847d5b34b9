"""What the tables ask of an adapter, each once: where it has a trait that several engines stumble over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.format.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

# Scalings are compared as fractions of each other; alpha and r are small numbers, so this is far below any choice.
_CLOSE = 1e-9


def rewrite(target: EngineTarget) -> str:
    """The command that rewrites an adapter for the engine, keeping its function."""
    return f"adapters convert REF --for {target.engine.name}"


def rewrite_from_initial(target: EngineTarget) -> str:
    """The same for initialisations that changed the base: it needs the adapter as it was before training."""
    return f"{rewrite(target)} --initial INITIAL"


def other_type(subject: Subject) -> Iterator[Hit]:
    """The adapter is no LoRA."""
    kind = subject.facts.config.peft_type
    if kind != "LORA":
        yield Hit(f"peft_type: expected LORA, found {kind!r:.80}", "peft_type")


def setting(subject: Subject, key: str, meaning: str, *, fix: str | None = None) -> Iterator[Hit]:
    """A key of a LoRA configuration that is on: anything but false, null, 0 and the empty."""
    if subject.facts.config.lora is not None and (value := subject.raw.get(key)):
        yield Hit(f"{key}: {meaning}; expected it off, found {short(value)}", key, fix)


def absent_keys(subject: Subject, keys: Iterable[str]) -> Iterator[Hit]:
    """Keys that the engine asks for by name."""
    missing = [key for key in keys if key not in subject.raw]
    if missing:
        yield Hit(
            f"adapter_config.json: expected the keys {', '.join(keys)}, found no {', '.join(missing)}", missing[0]
        )


def changed_base(subject: Subject, fix: str) -> Iterator[Hit]:
    """An initialisation that subtracts its start from the base whenever PEFT loads the adapter.

    Not LoRA-GA: PEFT does that in training alone, and loads a saved one as plain LoRA.
    """
    method = subject.raw.get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS) and method.lower() != "lora_ga":
        yield Hit(
            f"init_lora_weights: expected an initialisation that leaves the base alone, found {method!r:.80}; "
            "PEFT changes the base's weights on load, the engine does not",
            "init_lora_weights",
            fix,
        )


def scaled_otherwise(subject: Subject, scale: Callable[[ModuleFacts], float], fix: str) -> Iterator[Hit]:
    """Modules that the engine scales by something else than PEFT does: one hit that counts them."""
    wrong = [(module, scale(module)) for module in subject.facts.modules if not _equal(module.scaling, scale(module))]
    if wrong:
        module, found = wrong[0]
        yield Hit(
            f"{len(wrong)} of {len(subject.facts.modules)} modules get another scaling: {module.name} expected "
            f"{module.scaling:g}, found {found:g}",
            module.name,
            fix,
        )


def plain_scale(subject: Subject) -> float:
    """`lora_alpha / r` of the configuration, for every module alike; 0 where there is none."""
    lora = subject.facts.config.lora
    return 0.0 if lora is None or lora.r <= 0 else lora.lora_alpha / lora.r


def of_kinds(subject: Subject, kinds: Container[str], meaning: str) -> Iterator[Hit]:
    """Modules of kinds that the engine has no layer for."""
    found = [module for module in subject.facts.modules if module.kind in kinds]
    if found:
        names = listed([f"{module.name} ({module.kind})" for module in found])
        yield Hit(f"{meaning}; found {names}", found[0].name)


def with_roles(subject: Subject, roles: Container[str], meaning: str) -> Iterator[Hit]:
    """Tensors besides the factors, by role."""
    found = sorted(name for name, role in subject.facts.others.items() if role in roles)
    if found:
        yield Hit(f"{meaning}; found {len(found)} tensors: {listed(found)}", found[0])


def short(value: object) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _equal(left: float, right: float) -> bool:
    return abs(left - right) <= _CLOSE * max(abs(left), abs(right), 1e-30)
