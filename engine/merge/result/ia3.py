"""IA3 parents: a vector per module that scales its output, or in feed-forward modules its input.

Merged as peft does: l = Σ w_i·l_i over the parents that have the module, whatever the others' weights. So weights that
do not add up to 1 scale what the base computes, and a module that few parents have is scaled by theirs alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.compat.together.ia3 import LEAF, TYPE, scales_input
from engine.format.names.keys import PREFIX
from engine.merge.result.config import ROOT_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.format.configs.config import AdapterConfig
    from engine.format.facts import AdapterFacts
    from engine.merge.result.others import Extras


SHARED = ("auto_mapping", "revision", "task_type")
"""Keys that survive when all parents that have them agree."""


def ia3_config(parents: Sequence[AdapterFacts], extras: Extras) -> dict[str, Any]:
    """The config with which PEFT gives the result's vectors to its modules and to no others."""
    configs = [facts.config for facts in parents]
    names = {module.name for facts in parents for module in facts.modules}
    inputs = {module.name for facts in parents for module in facts.modules if scales_input(facts, module)}
    config = {
        "peft_type": TYPE,
        "base_model_name_or_path": next((name for one in configs if (name := one.base_model_name_or_path)), None),
        "target_modules": _exactly(names, names, unsure=any(name.count(".") < ROOT_DEPTH for name in names)),
        "feedforward_modules": _exactly(inputs, names, unsure=False),
        "modules_to_save": list(extras.saved) or None,
        "fan_in_fan_out": any(bool(one.raw.get("fan_in_fan_out")) for one in configs),
        "inference_mode": True,
        "init_ia3_weights": True,
        **{key: _agreed(configs, key) for key in SHARED},
    }
    return dict(sorted(config.items()))


def _exactly(names: set[str], targeted: set[str], *, unsure: bool) -> str | list[str]:
    """A list, or where that would also match other modules (`unsure`, or seen here) an expression for these alone."""
    others = targeted - names
    if unsure or any(other.endswith(name) for other in others for name in names):
        return "|".join(re.escape(name) for name in sorted(names))
    return sorted(names)


def vector_key(module: str) -> str:
    """PEFT's name of the module's vector."""
    return f"{PREFIX}{module}.{LEAF}"


def _agreed(configs: Iterable[AdapterConfig], key: str) -> Any:
    given = [value for one in configs if (value := one.raw.get(key)) is not None]
    return given[0] if given and all(value == given[0] for value in given) else None
