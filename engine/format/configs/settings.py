"""LoRA's settings, typed: every field of LoraConfig in peft 0.21.2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALL_LINEAR = "all-linear"
CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of init_lora_weights, or their beginning, that subtract the start factors from the base weights."""


class WrongValue(ValueError):  # noqa: N818 - becomes a ConfigError where the path is known
    """A key holds what PEFT cannot use."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(f"{key} must be {expected}, found {repr(found)[:80]}")
        self.key = key


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """LoraConfig's own fields under their own names, with PEFT's defaults for keys that are absent.

    Lists are tuples; patterns keep the file's order, which decides between them. The sub-configurations (`*_config`,
    `use_bdlora`) stay the mappings they were.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: str | tuple[str, ...] | None = None
    exclude_modules: str | tuple[str, ...] | None = None
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: str | tuple[str, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    megatron_config: Any = None
    megatron_core: str | None = "megatron.core"
    trainable_token_indices: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None
    loftq_config: Mapping[str, Any] | None = None
    eva_config: Mapping[str, Any] | None = None
    corda_config: Mapping[str, Any] | None = None
    lora_ga_config: Mapping[str, Any] | None = None
    velora_config: Mapping[str, Any] | None = None
    monteclora_config: Mapping[str, Any] | None = None
    arrow_config: Mapping[str, Any] | None = None
    kasa_config: Mapping[str, Any] | None = None
    use_bdlora: Mapping[str, Any] | None = None
    alora_invocation_tokens: tuple[int, ...] | None = None
    use_qalora: bool = False
    qalora_group_size: int | None = 16
    layer_replication: tuple[tuple[int, int], ...] | None = None
    runtime_config: Any = None
    lora_bias: bool = False
    target_parameters: tuple[str, ...] | None = None
    ensure_weight_tying: bool = False


def parse_lora(document: Mapping[str, Any]) -> LoraSettings:
    """The settings in a configuration of peft_type LORA; other keys are passed over.

    Raises WrongValue: a value that PEFT refuses or could not use.
    """
    names = [known.name for known in fields(LoraSettings)]
    settings = LoraSettings(**{key: _PARSERS[key](key, document[key]) for key in names if key in document})
    _check_together(settings)
    return settings


def _check_together(lora: LoraSettings) -> None:
    """The combinations that PEFT refuses."""
    if isinstance(lora.target_modules, str):
        for key in ("layers_to_transform", "layers_pattern"):
            if getattr(lora, key) is not None:
                raise WrongValue(key, "null where target_modules is a string", getattr(lora, key))
    if lora.layers_pattern and lora.layers_to_transform is None:
        raise WrongValue("layers_to_transform", "given where layers_pattern is", None)
    if lora.use_dora and lora.megatron_config:
        raise WrongValue("megatron_config", "null where use_dora is true", lora.megatron_config)
    if lora.lora_bias and not isinstance(lora.init_lora_weights, bool):
        raise WrongValue("init_lora_weights", "true or false where lora_bias is true", lora.init_lora_weights)
    if lora.lora_bias and lora.use_dora:
        raise WrongValue("lora_bias", "false where use_dora is true", found=True)
    if lora.init_lora_weights == "loftq" and not lora.loftq_config:
        raise WrongValue("loftq_config", "given where init_lora_weights is loftq", lora.loftq_config)


def _flag(key: str, value: Any) -> bool:
    if value and not isinstance(value, bool | int | float):
        raise WrongValue(key, "true or false", value)
    return bool(value)


def _integer(key: str, value: Any) -> int:
    if not isinstance(value, int):
        raise WrongValue(key, "an integer", value)
    return int(value)


def _optional_integer(key: str, value: Any) -> int | None:
    return None if value is None else _integer(key, value)


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise WrongValue(key, "a number", value)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise WrongValue(key, "a finite number", value)
    return value


def _bias(key: str, value: Any) -> str:
    if value not in ("none", "all", "lora_only"):
        raise WrongValue(key, "none, all or lora_only", value)
    return str(value)


def _initialisation(key: str, value: Any) -> bool | str:
    if value and not isinstance(value, bool | str):
        raise WrongValue(key, "true, false or a name", value)
    return value if isinstance(value, str) else bool(value)


def _optional_text(key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise WrongValue(key, "a string or null", value)
    return value


def _names(key: str, value: Any) -> tuple[str, ...] | None:
    if _absent(value):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise WrongValue(key, "a list of strings or null", value)
    return tuple(value)


def _names_or_text(key: str, value: Any) -> str | tuple[str, ...] | None:
    return value if isinstance(value, str) else _names(key, value)


def _integers(key: str, value: Any) -> tuple[int, ...] | None:
    if _absent(value):
        return None
    if not isinstance(value, list):
        raise WrongValue(key, "a list of integers or null", value)
    return tuple(_integer(key, item) for item in value)


def _integers_or_one(key: str, value: Any) -> int | tuple[int, ...] | None:
    return _integer(key, value) if isinstance(value, int) else _integers(key, value)


def _tokens(key: str, value: Any) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    if value is not None and not isinstance(value, list | dict):
        raise WrongValue(key, "a list of integers, an object or null", value)
    if not isinstance(value, dict):
        return _integers(key, value)
    return {name: _integers(f"{key}.{name}", held) or () for name, held in value.items()}


def _mapping(key: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise WrongValue(key, "an object or null", value)
    return value


def _loftq(key: str, value: Any) -> dict[str, Any] | None:
    return _mapping(key, value or None)


def _ranks(key: str, value: Any) -> dict[str, int]:
    return {name: _integer(f"{key}.{name}", rank) for name, rank in (_mapping(key, value) or {}).items()}


def _alphas(key: str, value: Any) -> dict[str, float]:
    return {name: _number(f"{key}.{name}", alpha) for name, alpha in (_mapping(key, value) or {}).items()}


def _replication(key: str, value: Any) -> tuple[tuple[int, int], ...] | None:
    if _absent(value):
        return None
    expected = "a list of pairs [start, end] or null"
    if not isinstance(value, list):
        raise WrongValue(key, expected, value)
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise WrongValue(key, expected, value)
    return tuple((_integer(key, start), _integer(key, end)) for start, end in value)


def _absent(value: Any) -> bool:
    """Whether PEFT, which asks for the truth of these values alone, takes it for null: an empty one of another type."""
    return not value and not isinstance(value, list)


def _verbatim(_key: str, value: Any) -> Any:
    return value


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "r": _integer,
    "lora_alpha": _number,
    "target_modules": _names_or_text,
    "exclude_modules": _names_or_text,
    "lora_dropout": _number,
    "fan_in_fan_out": _flag,
    "bias": _bias,
    "use_rslora": _flag,
    "use_dora": _flag,
    "modules_to_save": _names,
    "init_lora_weights": _initialisation,
    "layers_to_transform": _integers_or_one,
    "layers_pattern": _names_or_text,
    "rank_pattern": _ranks,
    "alpha_pattern": _alphas,
    "megatron_config": _verbatim,
    "megatron_core": _optional_text,
    "trainable_token_indices": _tokens,
    "loftq_config": _loftq,
    "eva_config": _mapping,
    "corda_config": _mapping,
    "lora_ga_config": _mapping,
    "velora_config": _mapping,
    "monteclora_config": _mapping,
    "arrow_config": _mapping,
    "kasa_config": _mapping,
    "use_bdlora": _mapping,
    "alora_invocation_tokens": _integers,
    "use_qalora": _flag,
    "qalora_group_size": _optional_integer,
    "layer_replication": _replication,
    "runtime_config": _verbatim,
    "lora_bias": _flag,
    "target_parameters": _names,
    "ensure_weight_tying": _flag,
}
