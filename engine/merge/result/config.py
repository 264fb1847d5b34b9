"""The adapter_config.json of a merge result: scaling 1 in every module, exactly the merged modules targeted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from engine.compat.together.parameters import leaves
from engine.format.names.keys import wrapped_path

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.format.configs.config import AdapterConfig
    from engine.merge.result.others import Extras

SHARED = ("auto_mapping", "layer_replication", "revision", "task_type")
"""Keys that survive when all parents that have them agree."""

NESTED = ".base_layer."

_PLAIN = re.compile(r"[A-Za-z0-9_.]+")

ROOT_DEPTH = 3
"""Names of at most this many parts may also end the names of other modules of the base (`head`, `layers.0.q`)."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A module of the result and its rank; `parameter`: not the module is adapted but bare parameters it holds."""

    name: str
    rank: int
    parameter: bool = False


def result_config(parents: Sequence[AdapterConfig], modules: Sequence[Adapted], extras: Extras) -> dict[str, Any]:
    """The config with which PEFT gives every module of `modules` its rank and scaling 1, and adapts nothing else.

    `extras` is what the result holds besides factors. Keys left out have PEFT's defaults.
    """
    largest = max(module.rank for module in modules)
    ranks = {_target(module.name): module.rank for module in modules if not module.parameter}
    plain = _unmistaken(ranks)
    smaller = {_pattern(name, plain): rank for name, rank in ranks.items() if rank < largest}
    named = _parameters(parents)
    holders = {wrapped_path(module.name): module.rank for module in modules if module.parameter}
    smaller |= {_holder_pattern(name, named): rank for name, rank in holders.items() if rank < largest}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": next((name for parent in parents if (name := parent.base_model_name_or_path)), None),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": smaller,
        "alpha_pattern": dict(smaller),
        "target_modules": sorted(ranks),
        "exclude_modules": _excluded(parents, ranks),
        "modules_to_save": list(extras.saved) or None,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": extras.bias,
        "init_lora_weights": True,
        "inference_mode": True,
        # PEFT finds out for itself where it must transpose, and lets no parameter be adapted beside the flag.
        "fan_in_fan_out": not holders and any(parent.lora.fan_in_fan_out for parent in parents if parent.lora),
        **{key: _agreed(parents, key) for key in SHARED},
    }
    # Keys that older versions of PEFT do not know stand only where they say something.
    newer = {
        "target_parameters": list(named) if holders else None,
        "trainable_token_indices": extras.tokens,
        "lora_bias": extras.lora_bias,
    }
    config |= {key: value for key, value in newer.items() if value}
    return dict(sorted(config.items()))


def _parameters(parents: Sequence[AdapterConfig]) -> tuple[str, ...]:
    """The entries of target_parameters, which all parents that have them share."""
    given = (parent.lora.target_parameters for parent in parents if parent.lora)
    return next((tuple(sorted(names)) for names in given if names), ())


def _holder_pattern(name: str, parameters: Sequence[str]) -> str:
    """A rank_pattern key for every parameter that the module `name` holds and nothing else."""
    return rf"^{re.escape(name)}\.(?:{'|'.join(map(re.escape, leaves(name, parameters)))})"


def _target(name: str) -> str:
    """The module to target: PEFT itself reaches a projection inside an adapted attention module."""
    return name.split(NESTED, maxsplit=1)[0]


def _pattern(name: str, plain: Collection[str]) -> str:
    """A rank_pattern key that matches `name` and no other of the adapted modules; the bare name where that does."""
    return name if name in plain else f"^{re.escape(name)}"


def _unmistaken(names: Collection[str]) -> frozenset[str]:
    """The names that, as expressions for the end of a name from a dot on, match themselves and no other of `names`.

    Names of more than letters, digits, _ and the dot are not tried: they are untrusted. Those whose dots lie alike are
    compared together, so that the cost does not grow with the square of their number.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        if _PLAIN.fullmatch(name):
            alike.setdefault((len(name), *(at for at, letter in enumerate(name) if letter == ".")), []).append(name)
    found: set[str] = set()
    for (length, *dots), group in alike.items():
        ends = (name[-length:] for name in names if len(name) == length or name[-length - 1 : -length] == ".")
        counts = Counter(_without(end, dots) for end in ends)
        found.update(name for name in group if counts[_without(name, dots)] == 1)
    return frozenset(found)


def _without(text: str, places: Sequence[int]) -> tuple[str, ...]:
    """What stands between `places`, whose own characters may be any."""
    edges = [-1, *places, len(text)]
    return tuple(text[start + 1 : stop] for start, stop in pairwise(edges))


def _excluded(parents: Sequence[AdapterConfig], ranks: Mapping[str, int]) -> str | None:
    """A regular expression over modules that a short target would adapt too, where the parents may have spared them.

    A parent that lists plain targets has adapted all modules whose names end in them, so nothing is left to spare.
    """
    plain = [entry for parent in parents for entry in _plain_targets(parent)]
    short = [name for name in ranks if name.count(".") < ROOT_DEPTH]
    unsure = [name for name in short if not any(f".{name}".endswith(f".{entry}") for entry in plain)]
    if not unsure:
        return None
    ending = rf"(?:.*\.(?:{'|'.join(sorted({_any_number(name) for name in unsure}))}))"
    wanted = [re.escape(name) for name in sorted(ranks) if re.fullmatch(ending, name)]
    return rf"(?!(?:{'|'.join(wanted)})$){ending}" if wanted else ending


def _any_number(name: str) -> str:
    """An expression for `name` with any layer number, so that one stands for all layers, however many there are.

    It matches too much only where no target reaches.
    """
    return r"\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in name.split("."))


def _plain_targets(parent: AdapterConfig) -> tuple[str, ...]:
    lora = parent.lora
    if lora is None or lora.exclude_modules or lora.layers_to_transform is not None:
        return ()
    return lora.target_modules if isinstance(lora.target_modules, tuple) else ()


def _agreed(parents: Sequence[AdapterConfig], key: str) -> Any:
    given = [parent.raw[key] for parent in parents if parent.raw.get(key) is not None]
    return given[0] if given and all(value == given[0] for value in given) else None
