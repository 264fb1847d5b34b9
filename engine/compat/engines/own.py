"""The project's own LoRA engine, `engine/model`: what it runs. `Runtime.load` asks this table first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines.table import Engine, EngineRule, Limit, Source, Span
from engine.compat.engines.traits import rewrite_from_initial, short
from engine.compat.rule import Hit
from engine.format.configs.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

RUNS_TYPES = ("LORA", "ADALORA", "IA3", "TRAINABLE_TOKENS")
"""The peft_types that `engine/model` attaches."""

VARIANTS: Mapping[str, str] = {
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
}
"""Settings that make something else of the factors, with the method's name."""

_SOURCE = Source("engine/model/fitting/unsupported.py", "unsupported", "0.1.0", "run")


def _type(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    kind = subject.facts.config.peft_type
    if kind not in RUNS_TYPES:
        yield Hit(f"peft_type: expected {', '.join(RUNS_TYPES)}, found {short(kind)}", "peft_type")


def _variant(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    for key, name in VARIANTS.items():
        if lora is not None and getattr(lora, key):
            yield Hit(f"{key}: expected plain factors, found {name}, which does not run here", key)


def _initialisation(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    """LoftQ keeps a quantised base, the others take the start factors off it: only those can be made plain again."""
    lora = subject.facts.config.lora
    method = None if lora is None else lora.init_lora_weights
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS):
        loftq = method.lower().startswith("loftq")
        fix = None if loftq else rewrite_from_initial(target)
        advice = (
            "train it without LoftQ" if loftq else f"{fix} makes it plain, from the adapter as it was before training"
        )
        message = f"init_lora_weights: expected one that leaves the base as it is, found {short(method)}; {advice}"
        yield Hit(message, "init_lora_weights", fix)


def _rank(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    most = target.number("target_rank")
    for module in subject.facts.modules:
        if most is not None and module.rank > most:
            yield Hit(f"{module.name}: expected at most target_rank {most}, found {module.rank}", module.name)


RULES = (
    EngineRule("own-type", "refuses", "The type does not run here.", _SOURCE, _type),
    EngineRule("own-variant", "refuses", "The factors are not plain ones.", _SOURCE, _variant),
    EngineRule("own-initialisation", "refuses", "Its initialisation changed the base.", _SOURCE, _initialisation),
    EngineRule("own-rank", "refuses", "A rank is above target_rank.", _SOURCE, _rank),
)

TABLE = Engine(
    "own",
    "our engine",
    Span(since="0.1", before="0.2"),
    "0.1.0",
    RULES,
    limits=(Limit("target_rank", int, None, "target_rank of the Runtime"),),
    aliases=("adapters",),
)
