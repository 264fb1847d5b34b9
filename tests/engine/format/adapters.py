"""Builds safetensors files byte by byte, and adapter folders."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

P = "base_model.model."
ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
DATA = bytes(8)


def raw(header: str | bytes, data: bytes = DATA, *, length: int | None = None) -> bytes:
    """A file with that header text; `length` is what the first 8 bytes claim."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def packed(tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str] | None = None) -> bytes:
    """A valid file; `dtypes` overrides the spelling where numpy has no such type."""
    names = {"f8": "F64", "f4": "F32", "f2": "F16", "i1": "I8", "u1": "U8", "i4": "I32", "i8": "I64", "b1": "BOOL"}
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        dtype = (dtypes or {}).get(name) or names[values.dtype.str[1:]]
        end = len(data) + values.nbytes
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    return raw(json.dumps(header), data)


def shaped(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """F32 ones of the given shapes."""
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def adapter(
    folder: Path, tensors: Mapping[str, np.ndarray], *, dtypes: Mapping[str, str] | None = None, **config: Any
) -> Path:
    """An adapter folder; the configuration is LoRA's with r 2 and alpha 4 unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    (folder / "adapter_model.safetensors").write_bytes(packed(tensors, dtypes))
    return folder
