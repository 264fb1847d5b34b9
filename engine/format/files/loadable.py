"""Files that a loader may take for a model's weights, or before them, by their names."""

from __future__ import annotations

_ENDINGS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")


def is_loadable(name: str) -> bool:
    """Whether a file of this name, beside the weights, could be loaded in their place."""
    return name.endswith(_ENDINGS)
