"""Reads an adapter folder into facts, without opening a tensor and without judging."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import ConfigError, UnreadableError
from engine.format.configs.config import read_config
from engine.format.configs.patterns import Matcher
from engine.format.configs.settings import WrongValue
from engine.format.facts import AdapterFacts
from engine.format.files.header import read_header
from engine.format.names.modules import build_modules
from engine.format.names.roles import explain

if TYPE_CHECKING:
    from pathlib import Path

    from engine.format.configs.config import AdapterConfig
    from engine.format.files.tensors import Header

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"


def read_adapter(folder: Path, *, alike: AdapterFacts | None = None) -> AdapterFacts:
    """The adapter in `folder`, which holds adapter_config.json and adapter_model.safetensors.

    `alike` saves time where it says the same: then its modules, and what else follows, are taken over as they are.

    Raises ConfigError, HeaderError or PatternError for what the files hold, and UnreadableError where a file is
    missing or only pickle weights are there.
    """
    if not folder.is_dir():
        raise UnreadableError(folder, "not a folder")
    config_path = folder / CONFIG_NAME
    if not config_path.exists():
        raise UnreadableError(folder, f"holds no {CONFIG_NAME}")
    config = read_config(config_path)
    weights = folder / WEIGHTS_NAME
    if not weights.exists() and not weights.is_symlink():
        raise UnreadableError(folder, _missing_weights(folder))
    header = read_header(weights)
    if alike is not None and header.tensors == alike.header.tensors and config.raw == alike.config.raw:
        return replace(alike, path=folder, config=config, weights=weights, header=header)
    return describe(config, header, config_path=config_path, weights_path=weights)


def read_adapter_files(config_path: Path, weights_path: Path) -> AdapterFacts:
    """The adapter in two files of any name; raises as `read_adapter`."""
    return describe(
        read_config(config_path), read_header(weights_path), config_path=config_path, weights_path=weights_path
    )


def describe(config: AdapterConfig, header: Header, *, config_path: Path, weights_path: Path) -> AdapterFacts:
    """The facts that a configuration and a header give together. Pure.

    Raises ConfigError where a module's rank is not positive, PatternError for a stored expression.
    """
    if config.lora is None:
        return AdapterFacts(config_path.parent, config, weights_path, header, ())
    matcher = Matcher(config.lora)
    try:
        modules, incomplete = build_modules(header, matcher)
    except WrongValue as wrong:
        raise ConfigError(config_path, str(wrong)) from None
    others, unmatched = explain(header.tensors, config, matcher)
    return AdapterFacts(
        path=config_path.parent,
        config=config,
        weights=weights_path,
        header=header,
        modules=modules,
        incomplete=incomplete,
        others=others,
        unmatched=unmatched,
    )


def _missing_weights(folder: Path) -> str:
    if (folder / PICKLE_NAME).exists():
        return (
            f"holds {PICKLE_NAME} but no {WEIGHTS_NAME}; only safetensors weights are taken, "
            "pickle weights are never opened"
        )
    return f"holds no {WEIGHTS_NAME}"
