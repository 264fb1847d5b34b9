"""The process that loads a pickle: locked in first, then torch's weights_only loader, then bytes into an open file.

Runs as a program of its own (process.py). The only module of this package that imports torch.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from engine.convert.sandbox import confine, die_with_parent
from engine.convert.version import NEEDED, is_enough
from engine.errors import ConfinementError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def main() -> None:
    """Read the request from stdin, do it, write a verdict to stdout."""
    die_with_parent()
    request = json.load(sys.stdin)
    try:
        verdict = _serve(request)
    except ConfinementError as error:
        verdict = {"status": "unconfined", "reason": str(error)}
    except MemoryError:
        verdict = {"status": "refused", "reason": "needs more memory than its size allows"}
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent gets it in words)
        verdict = {"status": "refused", "reason": f"{type(error).__name__}: {str(error)[:1000]}"}
    _write(1, json.dumps(verdict).encode(), None)
    os._exit(0)  # the interpreter's own end would ask for more than it may


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    import torch

    if not is_enough(torch.__version__):
        return {"status": "outdated", "reason": torch.__version__, "needed": NEEDED}
    torch.set_num_threads(1)
    _warm()
    source = _Source(request["source"])
    confine(memory=request["memory"], seconds=request["seconds"], output=request["output_size"])
    loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=False)
    _check(loaded, request["tensors"])
    for name, planned in request["tensors"].items():
        _write(request["output"], _bytes(loaded[name]), planned["offset"])
    return {"status": "done"}


class _Source(io.BufferedReader):
    """A file by its descriptor, which it does not tell: torch reads it through here alone, and tries no tar archive."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO(descriptor))
        self.seek(0)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _warm() -> None:
    """Let torch import and set up everything that loading needs, while it still may."""
    import numpy as np
    import torch

    for zipped in (True, False):
        file = io.BytesIO()
        tensors: dict[str, torch.Tensor] = {"a": torch.nn.Parameter(torch.ones(2, 3).t())}
        if zipped:  # the older layout has no such dtypes
            tensors["b"] = torch.ones(2).to(torch.float8_e4m3fn)
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        file.seek(0)
        for one in torch.load(file, map_location="cpu", weights_only=True).values():
            np.frombuffer(_bytes(one), dtype=np.uint8)


def _check(loaded: object, planned: Mapping[str, Any]) -> None:
    import torch

    if type(loaded).__name__ not in {"dict", "OrderedDict"} or not isinstance(loaded, dict):
        raise TypeError(f"torch loaded a {type(loaded).__name__}, expected a dictionary")
    if list(loaded) != list(planned):
        raise ValueError("torch loaded other names than the pickle holds")
    for name, tensor in loaded.items():
        if type(tensor) not in {torch.Tensor, torch.nn.Parameter} or tensor.device.type != "cpu":
            raise TypeError(f"torch loaded a {type(tensor).__name__} as {name!r}, expected a tensor")
        found = {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
        expected = {key: planned[name][key] for key in found}
        if found != expected:
            raise ValueError(f"torch loaded {found} as {name!r}, expected {expected}")


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(descriptor: int, data: bytes | memoryview, offset: int | None) -> None:
    view = memoryview(data)
    while view:
        count = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        view, offset = view[count:], None if offset is None else offset + count
