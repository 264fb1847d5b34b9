"""A base checkpoint by its headers: every stored tensor with its place, nothing decoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.format.base import config_facts, read_headers, read_model_config
from engine.format.names.canonical import canonical_names
from engine.materialize.stored.foreign import hold_readable
from engine.materialize.stored.numbers import NAMES
from engine.materialize.stored.packed import packed
from engine.materialize.stored.place import placed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.materialize.stored.place import Place, Stored

CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of the folder or file `path`, in the order of its files, and its config.json (empty where there is
    none).
    """

    path: Path
    tensors: Mapping[str, Stored]
    config: Mapping[str, Any]

    @cached_property
    def by_canonical(self) -> Mapping[str, str]:
        """Stored name by canonical parameter path."""
        return {path: name for name, path in canonical_names(self.tensors).items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises BaseError for a missing, lying or pickled checkpoint, HeaderError for a file that is none, and
    RefusedError for one in an encoding that is not read.
    """
    places: dict[str, Place] = {}
    for file, header in read_headers(path):
        for info in header.tensors.values():
            places[info.name] = placed(file, header, info)
    config_file = (path if path.is_dir() else path.parent) / CONFIG
    config = read_model_config(config_file) if config_file.is_file() else {}
    tensors = packed(places, NAMES.get(config_facts(config)["dtype"] or "", "F16"))
    hold_readable(path, config, tensors)
    return Checkpoint(path, tensors, config)
