"""The small files of the result that are written anew, and what the base's own files say of them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from engine.format.base import weight_files
from engine.materialize.folder.card import model_card
from engine.materialize.folder.config import as_json, index_of, result_config
from engine.materialize.stored.checkpoint import CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.materialize.folder.shards import Shard
    from engine.materialize.outputs import Output, Outputs
    from engine.materialize.request import Request
    from engine.materialize.stored.checkpoint import Checkpoint

CARD = "README.md"
FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes that a cast changes; integers are counters and tables."""
_TRANSFORMERS, _DIFFUSERS = "model", "diffusion_pytorch_model"


def documents_of(
    checkpoint: Checkpoint,
    found: Outputs,
    files: Sequence[Shard],
    *,
    recipe: Mapping[str, Any],
    request: Request,
) -> dict[str, bytes]:
    """Model card, config.json and index, by name. A config in which nothing changes keeps its bytes."""
    diffusers = stem(request.base) == _DIFFUSERS
    library = "diffusers" if diffusers else "transformers"
    documents = {CARD: model_card(recipe, base=request.base_name, library=library, headed=found.headed)}
    if checkpoint.config:
        config = result_config(checkpoint.config, found.config, request.dtype)
        same = list(config.items()) == list(checkpoint.config.items())
        documents[CONFIG] = (_folder(request.base) / CONFIG).read_bytes() if same else as_json(config)
    if len(files) > 1:
        index = index_of(files, None if diffusers else _parameters(found.tensors))
        documents[f"{stem(request.base)}.safetensors.index.json"] = as_json(index)
    return documents


def stem(base: Path) -> str:
    """What the names of the weights begin with: diffusers' loaders look for their own."""
    file, _ = weight_files(base)[0]
    return _DIFFUSERS if file.name.startswith(_DIFFUSERS) else _TRANSFORMERS


def model_folder(base: Path) -> Path | None:
    """The folder whose other files belong to the model: not one in which a weight file lies among others."""
    return _folder(base) if base.is_dir() or base.stem in (_TRANSFORMERS, _DIFFUSERS) else None


def resized(base: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether the vocabulary has another size, at the top or in a part."""
    for key, held in changes.items():
        if key == "vocab_size" and held != base.get(key):
            return True
        if isinstance(held, dict) and resized(base.get(key) or {}, held):
            return True
    return False


def _folder(base: Path) -> Path:
    return base if base.is_dir() else base.parent


def _parameters(tensors: Sequence[Output]) -> int:
    """How many numbers the model has."""
    return sum(prod(output.source.shape) for output in tensors if output.source.numbers in FLOATS)
