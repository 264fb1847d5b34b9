"""PEFT's own rules by release, read from the wheels of 0.10.0 to 0.21.2; the newest is the function all is measured by.

Before 0.14 a key that a release does not know is a TypeError; from then on it is dropped with a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines import traits
from engine.compat.engines.peft_keys import keys_of
from engine.compat.engines.table import Engine, EngineRule, Source, Span
from engine.compat.rule import Hit, listed
from engine.format.configs.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

_TYPES = Source("peft/mapping.py", "PEFT_TYPE_TO_CONFIG_MAPPING", "0.10.0 to 0.21.2")
_STRICT = Source("peft/config.py", "PeftConfigMixin.from_peft_type", "0.13.2", "run")
_LENIENT = Source("peft/config.py", "_check_and_remove_unused_kwargs", "0.21.2", "run")
_INITS = Source("peft/tuners/lora/layer.py", "LoraLayer.reset_lora_parameters", "0.10.0 to 0.21.2")

# Without them an adapter that was saved computes the same: training alone asks for them, or its tensors say it all.
_HARMLESS = frozenset(
    {"peft_version", "runtime_config", "corda_config", "eva_config", "lora_ga_config", "loftq_config", "velora_config",
     "ensure_weight_tying", "qalora_group_size", "exclude_modules"}
)  # fmt: skip
_ALWAYS_KNOWN = ("gaussian", "loftq")
_FIRST = {
    "pissa": "0.11", "olora": "0.12", "eva": "0.14", "corda": "0.15", "orthogonal": "0.16", "lora_ga": "0.19",
    "mica": "0.20",
}  # fmt: skip


def _type(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    kind = subject.facts.config.peft_type
    if _known(subject, target) is None:
        yield Hit(f"peft_type: expected a type of this release, found {kind!r:.80}", "peft_type")


def _strict_keys(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    if unknown := _unknown(subject, target):
        lost = [key for key in unknown if _matters(subject, key)]
        yield Hit(
            f"adapter_config.json: expected keys of this release alone, found {listed(unknown, 8)}",
            unknown[0],
            None if lost else traits.rewrite(target),
        )


def _dropped_keys(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    for key in _unknown(subject, target):
        if _matters(subject, key):
            yield Hit(f"{key}: expected a key of this release, found {traits.short(subject.raw[key])}, dropped", key)


def _initialisation(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    method = subject.raw.get("init_lora_weights")
    if not isinstance(method, str) or not method or method.lower() in _ALWAYS_KNOWN:
        return
    first = next((release for name, release in _FIRST.items() if method.lower().startswith(name)), None)
    if first is None or not Span(since=first).holds(target.version):
        since = "which no release knows" if first is None else f"known from {first} on"
        yield Hit(
            f"init_lora_weights: expected one of this release, found {traits.short(method)}, {since}",
            "init_lora_weights",
            (traits.rewrite_from_initial if method.lower().startswith(CHANGING_INITS) else traits.rewrite)(target),
        )


def _known(subject: Subject, target: EngineTarget) -> frozenset[str] | None:
    release = () if target.version is None else target.version.release
    return keys_of(release, subject.facts.config.peft_type)


def _unknown(subject: Subject, target: EngineTarget) -> list[str]:
    known = _known(subject, target)
    return [] if known is None else sorted(set(subject.raw) - known)


def _matters(subject: Subject, key: str) -> bool:
    """Whether 0.21.2 knows the key and its value asks for something."""
    newest = keys_of((0, 21, 2), subject.facts.config.peft_type) or frozenset()
    return key in newest and key not in _HARMLESS and bool(subject.raw[key])


RULES = (
    EngineRule("peft-type", "refuses", "The release has no such peft_type.", _TYPES, _type),
    EngineRule(
        "peft-keys",
        "refuses",
        "The config has keys that the release does not know.",
        _STRICT,
        _strict_keys,
        Span(before="0.14"),
    ),
    EngineRule(
        "peft-keys-dropped", "differs", "A key that matters is dropped.", _LENIENT, _dropped_keys, Span(since="0.14")
    ),
    EngineRule("peft-initialisation", "refuses", "The release has no such initialisation.", _INITS, _initialisation),
)

TABLE = Engine("peft", "PEFT", Span(since="0.10", before="0.22"), "0.21.2", RULES)
