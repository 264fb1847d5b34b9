"""What the tables ask of an adapter, each once: where it has a trait that several engines stumble over."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.format.configs.settings import CHANGING_INITS
from engine.format.names.peftnames import peft_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.compat.engines.table import EngineTarget, Judge
    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

# Scalings are compared as fractions of each other; alpha and r are small numbers, so this is far below any choice.
_CLOSE = 1e-9


def rewrite(target: EngineTarget) -> str:
    """The command that rewrites an adapter for the engine, keeping its function."""
    return f"adapters convert REF --for {shlex.quote(target.asked)}"


def rewrite_from_initial(target: EngineTarget) -> str:
    """The same for initialisations that changed the base: it needs the adapter as it was before training."""
    return f"{rewrite(target)} --initial INITIAL"


def other_type(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    """The adapter is no LoRA."""
    kind = subject.facts.config.peft_type
    if kind != "LORA":
        yield Hit(f"peft_type: expected LORA, found {kind!r:.80}", "peft_type")


def rename(name: str, target: EngineTarget) -> str | None:
    """The command for a tensor that PEFT writes under another name, None where it has that name."""
    return rewrite(target) if peft_name(name) != name else None


def forbids(*keys: str, because: str) -> Judge:
    """Keys of a LoRA configuration that are on: anything but false, null, 0 and the empty."""

    def judge(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
        for key in keys if subject.facts.config.lora is not None else ():
            if value := subject.raw.get(key):
                yield Hit(f"{key}: {because}; expected it off, found {short(value)}", key)

    return judge


def where(condition: Callable[[Subject, EngineTarget], bool], judge: Judge) -> Judge:
    """What `judge` says, where the condition holds."""

    def judged(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
        if condition(subject, target):
            yield from judge(subject, target)

    return judged


def asks_for(*keys: str) -> Judge:
    """Keys that the engine asks for by name."""

    def judge(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
        if missing := [key for key in keys if key not in subject.raw]:
            yield Hit(
                f"adapter_config.json: expected the keys {', '.join(keys)}, found no {', '.join(missing)}",
                missing[0],
                None if subject.facts.config.lora is None else rewrite(target),
            )

    return judge


def lacks_kinds(*kinds: str, expected: str) -> Judge:
    """Modules of kinds that the engine has no layer for."""

    def judge(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
        if found := [module for module in subject.facts.modules if module.kind in kinds]:
            names = listed([f"{module.name} ({module.kind})" for module in found])
            yield Hit(f"expected {expected}; found {names}", found[0].name)

    return judge


def passes_over_roles(*roles: str, because: str) -> Judge:
    """Tensors besides the factors, by role."""

    def judge(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
        if found := sorted(name for name, role in subject.facts.others.items() if role in roles):
            yield Hit(f"{because}; found {len(found)} tensors: {listed(found)}", found[0])

    return judge


def passes_over_copies(is_copy: Callable[[str], bool]) -> Judge:
    """Full embeddings, by the tensor's name: saved beside factors where one was trained or resized."""

    def judge(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
        if found := sorted(filter(is_copy, subject.facts.header.tensors)):
            yield Hit(f"{listed(found)}: passed over; an embedding that was trained or resized is lost", found[0])

    return judge


def changed_base(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    """An initialisation that subtracts its start from the base whenever PEFT loads the adapter.

    Not LoRA-GA: PEFT does that in training alone, and loads a saved one as plain LoRA.
    """
    method = subject.raw.get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS) and method.lower() != "lora_ga":
        yield Hit(
            f"init_lora_weights: expected an initialisation that leaves the base alone, found {method!r:.80}; "
            "PEFT changes the base's weights on load, the engine does not",
            "init_lora_weights",
            rewrite_from_initial(target),
        )


def scaled_otherwise(subject: Subject, target: EngineTarget, scale: Callable[[ModuleFacts], float]) -> Iterator[Hit]:
    """Modules that the engine scales by something else than PEFT does: one hit that counts them."""
    wrong = [
        (module, other)
        for module in subject.facts.modules
        if module.scaling != (other := scale(module)) and not _equal(module.scaling, other)
    ]
    if wrong:
        module, found = wrong[0]
        yield Hit(
            f"{len(wrong)} of {len(subject.facts.modules)} modules get another scaling: {module.name} expected "
            f"{module.scaling:g}, found {found:g}",
            module.name,
            rewrite(target),
        )


def plain_scale(subject: Subject) -> float:
    """`lora_alpha / r` of the configuration, for every module alike; 0 where there is none."""
    lora = subject.facts.config.lora
    return 0.0 if lora is None or lora.r <= 0 else lora.lora_alpha / lora.r


def short(value: object) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _equal(left: float, right: float) -> bool:
    return abs(left - right) <= _CLOSE * max(abs(left), abs(right), 1e-30)


NO_MAGNITUDES = forbids("use_dora", because="magnitudes are not supported")
NO_ROUTING = forbids("arrow_config", because="routing between adapters is not done")
NO_ACTIVATION = forbids("alora_invocation_tokens", because="the adapter acts on every token")
ONLY_LINEAR = lacks_kinds("conv1d", "conv2d", "conv3d", "parameter", expected="linear layers and embeddings")
