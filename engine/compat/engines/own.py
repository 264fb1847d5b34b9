"""The project's own LoRA engine, `engine/model`: what it runs, as its loader's own constants say.

`make pytest` loads the adapters of the matrix with it and holds each verdict to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines import traits
from engine.compat.engines.table import Engine, EngineRule, Source, Span
from engine.compat.rule import Hit
from engine.format.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

TYPES = ("LORA", "ADALORA", "IA3", "TRAINABLE_TOKENS")
"""The peft_types that run."""

VARIANTS = {
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
}
"""Settings that make something else of the factors, by the name of the method."""

_SOURCE = Source("engine/model/unsupported.py", "unsupported", "0.1.0", "run")


def _type(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    kind = subject.facts.config.peft_type
    if kind not in TYPES:
        yield Hit(f"peft_type: expected {', '.join(TYPES)}, found {kind!r:.80}", "peft_type")


def _initialisation(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    method = subject.raw.get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS):
        yield Hit(
            f"init_lora_weights: expected an initialisation that leaves the base alone, found {method!r:.80}",
            "init_lora_weights",
            # of LoftQ no factors tell how the base was quantised
            None if method.lower().startswith("loftq") else traits.rewrite_from_initial(target),
        )


RULES = (
    EngineRule("own-type", "refuses", "The type does not run here.", _SOURCE, _type),
    EngineRule(
        "own-variant",
        "refuses",
        "The factors are no plain LoRA's.",
        _SOURCE,
        traits.forbids(*VARIANTS, because="what it makes of the factors is not run here"),
    ),
    EngineRule("own-initialisation", "refuses", "An initialisation that changed the base.", _SOURCE, _initialisation),
)

TABLE = Engine("own", "our engine", Span(since="0.1", before="0.2"), "0.1.0", RULES, aliases=("adapters",))
