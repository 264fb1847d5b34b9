"""Reads adapter_config.json: PEFT's configurations of every type, LoRA's in full."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from engine.format.configs.fields import COMMON, FIELDS
from engine.format.configs.foreign import recognise
from engine.format.configs.settings import LoraSettings, WrongValue, parse_lora
from engine.format.files.header import open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """An adapter_config.json.

    `raw` is the whole document, unknown keys included. `unknown` are the keys that peft 0.21.2 does not know for this
    `peft_type` (every key of an unknown type but the common ones), `duplicates` those written more than once: the
    last one counts, as in PEFT. `lora` is set for peft_type LORA alone. An empty base model name is None.
    """

    path: Path | str
    peft_type: str
    task_type: str | None
    base_model_name_or_path: str | None
    revision: str | None
    inference_mode: bool
    peft_version: str | None
    auto_mapping: Mapping[str, Any] | None
    lora: LoraSettings | None
    raw: Mapping[str, Any]
    size: int
    unknown: tuple[str, ...] = field(default=())
    duplicates: tuple[str, ...] = field(default=())

    @property
    def known_type(self) -> bool:
        """Whether peft 0.21.2 has this `peft_type`."""
        return self.peft_type in FIELDS


def read_config(path: Path) -> AdapterConfig:
    """The configuration in the regular file at `path`.

    Raises ConfigError: not a JSON object, no PEFT configuration (`kind` names the library where it is recognised), or a
    LoRA value that PEFT could not use.
    HeaderError: no such file, or not a regular one.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    return parse_config(text, path)


def parse_config(text: bytes, path: Path | str = "adapter_config.json") -> AdapterConfig:
    """The configuration in `text`; `path` is only named in errors. Pure; raises as `read_config`."""
    document, duplicates = _load(text, path)
    kind = document.get("peft_type")
    if kind is None:
        raise _not_peft(document, path)
    if not isinstance(kind, str):
        raise ConfigError(path, f"peft_type must be a string, found {kind!r:.80}")
    try:
        return _assemble(document, kind, path, size=len(text), duplicates=duplicates)
    except WrongValue as wrong:
        raise ConfigError(path, str(wrong)) from None


def _assemble(
    document: dict[str, Any], kind: str, path: Path | str, *, size: int, duplicates: tuple[str, ...]
) -> AdapterConfig:
    known = FIELDS.get(kind, COMMON)
    mapping = document.get("auto_mapping")
    return AdapterConfig(
        path=path,
        peft_type=kind,
        task_type=_text(document, "task_type"),
        base_model_name_or_path=_text(document, "base_model_name_or_path") or None,
        revision=_text(document, "revision"),
        inference_mode=bool(document.get("inference_mode")),
        peft_version=_text(document, "peft_version"),
        auto_mapping=mapping if isinstance(mapping, dict) else None,
        lora=parse_lora(document) if kind == "LORA" else None,
        raw=document,
        size=size,
        unknown=tuple(sorted(set(document) - known)),
        duplicates=duplicates,
    )


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise WrongValue(key, "a string or null", value)
    return value


def _load(text: bytes, path: Path | str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON object and the keys it repeats, at any depth."""
    duplicates: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                duplicates.append(key)
            found[key] = value
        return found

    if len(text) > MAX_BYTES:
        raise ConfigError(path, f"larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=collect, parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ConfigError(path, "not JSON: nested too deep") from None
    except UnicodeError:
        raise ConfigError(path, "not JSON in UTF-8, or a text with a lone surrogate") from None
    except ValueError as error:
        raise ConfigError(path, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(path, "not a JSON object")
    return document, tuple(dict.fromkeys(duplicates))


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"{literal} is no JSON number")


def _not_peft(document: dict[str, Any], path: Path | str) -> ConfigError:
    kind = recognise(document)
    if kind is None:
        return ConfigError(path, "no peft_type, so no PEFT configuration")
    return ConfigError(path, f"a configuration of {kind}, not of PEFT (no peft_type)", kind=kind)
