"""A configuration for an older PEFT: without the keys that it does not know, where they say nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.compat.engines.peft_keys import keys_of
from engine.convert.rewrite.draft import NEEDS_INITIAL, refused
from engine.convert.rewrite.targets import explicit_targets
from engine.format.configs.settings import CHANGING_INITS

if TYPE_CHECKING:
    from engine.compat.engines.table import EngineTarget
    from engine.convert.rewrite.draft import Draft

# Keys that only training reads, or whose effect lies in the tensors once those are saved.
_SPENT = frozenset(
    {"peft_version", "runtime_config", "corda_config", "eva_config", "lora_ga_config", "loftq_config", "velora_config",
     "ensure_weight_tying", "qalora_group_size"}
)  # fmt: skip
_NEWEST = (0, 21, 2)
_PLAIN_ON_LOAD = "lora_ga"


def down_level(draft: Draft, target: EngineTarget) -> Draft:
    """The draft without the keys that the release does not know; refuses one whose value changes the function."""
    release = () if target.version is None else target.version.release
    kind = draft.source.config.peft_type
    known = keys_of(release, kind)
    if known is None:
        raise refused("type", f"{target} has no peft_type {kind!r:.80}", where="peft_type")
    if "exclude_modules" not in known and draft.config.get("exclude_modules"):
        # the names of the modules themselves need no exception
        draft = explicit_targets(draft)
    unknown = sorted(set(draft.config) - known)
    meant = keys_of(_NEWEST, kind) or frozenset()
    if lost := [key for key in unknown if key in meant - _SPENT and draft.config[key]]:
        raise refused(
            "down-level",
            f"{lost[0]}: {target} does not know it, and {draft.config[lost[0]]!r:.60} changes the function",
            where=lost[0],
        )
    return replace(draft, config={key: value for key, value in draft.config.items() if key in known})


def trained_initialisation(draft: Draft) -> Draft:
    """The draft with init_lora_weights true, which loading alone cannot tell from another that left the base alone."""
    method = draft.config.get("init_lora_weights")
    name = method.lower() if isinstance(method, str) else ""
    if name.startswith(CHANGING_INITS) and name != _PLAIN_ON_LOAD:
        raise refused(
            "initial",
            f"init_lora_weights {method!r:.80} changes the base on load",
            where="init_lora_weights",
            fix=NEEDS_INITIAL,
        )
    return draft.with_config(init_lora_weights=True)
