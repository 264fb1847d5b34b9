"""A base model's layout from config.json alone: transformers builds it on the meta device, without weights or network.

No code of the model's author runs: the class and the config class come from transformers' own tables, by exact name,
and a config that asks for its own code is refused.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.compat.rule import nested_items
from engine.errors import BaseError, MissingExtraError
from engine.format.base import config_facts, read_model_config
from engine.format.facts import BaseFacts
from engine.format.fingerprint import layout
from engine.format.names.canonical import layout_parameters, tied_twins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CODE_KEYS = ("trust_remote_code", "custom_pipelines")
# Keys that load something else than the architecture: the author's classes (transformers' own of the same name is used
# where it has one), kernels from a hub, quantisers.
_DROPPED_KEYS = frozenset(
    {"auto_map", "quantization_config", "attn_implementation", "experts_implementation", "torch_dtype", "dtype"}
)
# Names that transformers itself no longer has, with their present class.
_RENAMED = {"T5WithLMHeadModel": "T5ForConditionalGeneration"}
# Bounds, by a part of the key, against a config that would build modules or label tables for hours; models known stay
# well below.
_BOUNDS = {"layer": 4096, "depth": 4096, "num_block": 4096, "expert": 65536, "label": 10**6}


def layout_from_config(path: Path) -> BaseFacts:
    """Give the parameters that a config.json (or the folder that holds it) describes; `fingerprint` is None.

    Raises BaseError for a config that asks for custom code, names no architecture of the installed transformers or
    does not build, and MissingExtraError without torch and transformers.
    """
    path = path / "config.json" if path.is_dir() else path
    config = read_model_config(path)
    _refuse_code(path, config)
    _refuse_bombs(path, config)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError("reading a base model from config.json alone", package, "engine")
    return _facts(config, _parameters(path, config))


def _facts(config: dict[str, Any], parameters: dict[str, tuple[int, ...]]) -> BaseFacts:
    stated = config_facts(config)
    return BaseFacts(
        layout=layout(parameters),
        parameters=parameters,
        architecture=stated["architecture"],
        model_type=stated["model_type"],
        dtype=stated["dtype"],
        quantization=stated["quantization"],
        tensors=len(parameters),
        config=config,
    )


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    for place, key, value in nested_items(config):
        if key in _CODE_KEYS and value:
            raise BaseError(
                path,
                f"{place} asks for the author's own code, which is never run; "
                "add the model's folder with its safetensors files instead",
            )


def _refuse_bombs(path: Path, section: Mapping[str, Any]) -> None:
    for key, value in section.items():
        if isinstance(value, dict):
            _refuse_bombs(path, value)
        limit = next((bound for part, bound in _BOUNDS.items() if part in key), None)
        for number in value if isinstance(value, list) else [value]:
            if limit and isinstance(number, int) and number > limit:
                raise BaseError(path, f"{key} is {number}, expected at most {limit}")


def _parameters(path: Path, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with _quiet():
        return _named_shapes(_built(path, config))


def model_from_config(path: Path, config: Mapping[str, Any]) -> Any:
    """The transformers model that a config.json at `path` describes, on the meta device.

    Raises BaseError and MissingExtraError as `layout_from_config`.
    """
    held = dict(config)
    _refuse_code(path, held)
    _refuse_bombs(path, held)
    with _quiet():
        return _built(path, held)


def _built(path: Path, config: dict[str, Any]) -> Any:
    import torch
    import transformers

    model_class = _model_class(path, config)
    try:
        settings = model_class.config_class.from_dict(_plain(config))
        with torch.device("meta"):
            return model_class._from_config(settings)  # noqa: SLF001 - from_config of the auto classes asks the hub
    except Exception as error:  # a config's values reach any line of any model's constructor
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise BaseError(path, f"transformers {transformers.__version__} cannot build it: {reason}") from error


def _named_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    found = list(model.named_parameters(remove_duplicate=False))
    tied = tied_twins({name: id(parameter) for name, parameter in found})
    declared = frozenset(getattr(model, "all_tied_weights_keys", None) or {})
    return layout_parameters({name: tuple(parameter.shape) for name, parameter in found}, tied | declared)


def _model_class(path: Path, config: Mapping[str, Any]) -> Any:
    import transformers

    stated = config_facts(config)
    architecture, model_type = stated["architecture"], stated["model_type"]
    name = _RENAMED.get(architecture or "", architecture)
    if name in _known_classes():
        return getattr(transformers, name)
    if architecture is None and model_type in (bodies := _bodies()):
        return getattr(transformers, bodies[model_type])
    found = f"architecture {architecture!r}, model_type {model_type!r}"
    own = "; its author's code, named in auto_map, is never run" if config.get("auto_map") else ""
    raise BaseError(
        path,
        f"transformers {transformers.__version__} has no class for {found}{own}; "
        "add the model's folder with its safetensors files instead",
    )


def _known_classes() -> frozenset[str]:
    """Name every model class of transformers' auto tables: only these may be looked up."""
    from transformers.models.auto import modeling_auto

    names: set[str] = set()
    for table, rows in vars(modeling_auto).items():
        if table.startswith("MODEL_") and table.endswith("_MAPPING_NAMES"):
            for row in rows.values():
                names.update((row,) if isinstance(row, str) else row)
    return frozenset(names)


def _bodies() -> dict[str, str]:
    """Map model_type to the class without a head."""
    table = import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING_NAMES
    return {model_type: row if isinstance(row, str) else row[0] for model_type, row in table.items()}


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what describes the architecture: no private keys (`_attn_implementation_internal`, …), no loaders."""
    kept: dict[str, Any] = {}
    for key, value in section.items():
        if key.startswith("_") or key in _DROPPED_KEYS:
            continue
        kept[key] = _plain(value) if isinstance(value, dict) else value
    return kept


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks on old configs off the terminal; the findings say what matters."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
