"""A loaded adapter as PEFT names and stores it: its own tensors, at its own ranks, in the dtypes of its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from engine.errors import EngineError
from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME
from engine.format.files.folder import fresh_folder
from engine.format.files.writer import TensorWriter
from engine.format.names.keys import WRAPPER, parse_key
from engine.model.kinds import KINDS
from engine.model.memory.source import changed
from engine.model.memory.tensordata import DTYPES, TensorData

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from engine.model.memory.image import Image
    from engine.model.memory.source import Source
    from engine.model.memory.staged import Loaded

_BETWEEN = (WRAPPER, "token_adapter")


def stored_tensors(loaded: Loaded, image: Image, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The adapter's tensors by their names on disk, copies on the host; the factor of `set_scale` is not in them.

    What only repeats the base, as PEFT writes embeddings, has no place in an image: it is read again from the file, or
    taken from the base where that is gone. Raises SourceGoneError where neither has it.
    """
    found: dict[str, Tensor] = {}
    for part in loaded.parts:
        for role, tensor in KINDS[part.kind].stored(image.views(part.path), part).items():
            found[part.tensors[role]] = tensor
    header = loaded.facts.header
    found |= _repeated([name for name in header.tensors if name not in found], loaded.source, modules)
    return {
        name: found[name].to(DTYPES[info.dtype]).reshape(info.shape).contiguous()
        for name, info in header.tensors.items()
        if name in found
    }


def write_adapter(loaded: Loaded, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors into a new folder, all or nothing.

    The bytes of the weights are those that safetensors itself writes. Raises DestinationError.
    """
    header = loaded.facts.header
    planned = {name: (header.tensors[name].dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with fresh_folder(folder):
        with TensorWriter(folder / WEIGHTS_NAME, planned) as writer:
            for name, tensor in tensors.items():
                writer.put(name, tensor.reshape(-1).view(torch.uint8).numpy().data)
        text = json.dumps(loaded.facts.config.raw, indent=2, ensure_ascii=False)
        (folder / CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")


def _repeated(names: Iterable[str], source: Source, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    wanted = list(names)
    if not wanted:
        return {}
    try:
        data = TensorData(source.facts.weights, source.facts.header)
        if data.mark() == source.mark:
            return {name: data.tensor(name) for name in wanted}
    except EngineError:
        pass  # the base has them as well
    found = {name: _of_base(name, modules) for name in wanted}
    if any(tensor is None for tensor in found.values()):
        raise changed(source)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _of_base(name: str, modules: Mapping[str, nn.Module]) -> Tensor | None:
    key = parse_key(name)
    path = ".".join(component for component in key.module.split(".") if component not in _BETWEEN)
    tensor = getattr(modules.get(path), key.leaf, None)
    return tensor.detach().cpu() if isinstance(tensor, torch.Tensor) and not tensor.is_meta else None
