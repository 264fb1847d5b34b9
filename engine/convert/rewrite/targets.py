"""What a configuration leaves to a reader, said: targets as a list of names, and the keys that stand for defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import NEEDS_INITIAL, number, refused
from engine.format.configs.settings import CHANGING_INITS
from engine.format.names.keys import wrapped_path

if TYPE_CHECKING:
    from engine.convert.rewrite.draft import Draft

_ROOT_DEPTH = 3
"""Names of at most this many parts may also end the names of other modules of the base."""


def explicit_targets(draft: Draft) -> Draft:
    """The draft with target_modules a list: the full name of every module that has factors.

    A full name selects that module alone, but a short one (`head`) may end another's: PEFT gives such a module fresh
    factors that add nothing, except where the initialisation adds something; those are refused.
    """
    facts = draft.facts()
    lora = facts.config.lora
    names = sorted({wrapped_path(module.name) for module in facts.modules if module.kind != "parameter"})
    if lora is None or (not names and not lora.target_parameters):
        raise refused("targets", "no module has factors: there is nothing to list", where="target_modules")
    method = lora.init_lora_weights
    short = [name for name in names if name.count(".") < _ROOT_DEPTH]
    if short and isinstance(method, str) and method.lower().startswith(CHANGING_INITS):
        raise refused(
            "targets",
            f"{short[0]}: may end other modules' names, and init_lora_weights {method!r} changes the base below each",
            where="target_modules",
            fix=NEEDS_INITIAL,
        )
    spoken = draft.with_config(
        target_modules=names, exclude_modules=None, layers_to_transform=None, layers_pattern=None
    )
    # Where PEFT draws B at random, a module selected besides would compute something.
    return spoken.with_config(init_lora_weights=True) if method is False else spoken


def spelled_out(draft: Draft) -> Draft:
    """The draft with r, lora_alpha and target_modules said, which some readers ask for by name."""
    facts = draft.facts()
    lora = facts.config.lora
    if lora is None:
        raise refused("type", f"peft_type: expected LORA, found {facts.config.peft_type!r:.80}", where="peft_type")
    said = draft.with_config(r=lora.r, lora_alpha=number(lora.lora_alpha))
    return said if lora.target_modules is not None else explicit_targets(said)
