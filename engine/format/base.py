"""A base model read from its safetensors headers, a few sampled bytes and config.json. Opens no tensor, no pickle."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BaseError
from engine.format.facts import BaseFacts
from engine.format.files.header import read_header
from engine.format.fingerprint import fingerprint, layout, sample_digest
from engine.format.names.canonical import layout_parameters, tied_twins

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.format.files.tensors import Header, TensorInfo

# transformers' and diffusers' names, in the order in which their loaders look.
_STEMS = ("model", "diffusion_pytorch_model")
_MAX_JSON = 64 * 1024 * 1024
_CONFIG_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor as a file stores it; `sample` is the digest of its sampled bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    sample: str


def read_base(path: Path) -> BaseFacts:
    """Read a safetensors file, or a folder with one (or with an index and its shards) and perhaps a config.json.

    Reads headers and at most 12 KiB per tensor. Raises BaseError naming the file, shard or tensor that is wrong, and
    HeaderError for a file that is no safetensors file.
    """
    files = weight_files(path)
    folder = path if path.is_dir() else path.parent
    config_path = folder / "config.json"
    config = read_model_config(config_path) if config_path.is_file() else {}
    stored = _read_tensors(files)
    return _facts(config, stored)


def read_headers(path: Path) -> tuple[tuple[Path, Header], ...]:
    """Read the header of every file that holds weights, held against the index where there is one.

    A file is named by where its bytes are: links are followed. Raises as `read_base`.
    """
    return tuple(_read_header(file, promised) for file, promised in weight_files(path))


def weight_files(path: Path) -> tuple[tuple[Path, frozenset[str] | None], ...]:
    """Give the files that hold the weights, each with the tensor names that an index promises (None without one)."""
    if path.is_file():
        return ((path, None),)
    if not path.is_dir():
        raise BaseError(path, "no such file or folder")
    for stem in _STEMS:
        single, index = path / f"{stem}.safetensors", path / f"{stem}.safetensors.index.json"
        if single.is_file():
            return ((single, None),)
        if index.is_file():
            return _indexed_files(index)
    raise BaseError(path, _no_weights(path))


def has_weights(path: Path) -> bool:
    """Say whether `read_base` would find weights at `path`; where not, a config.json may still give a layout."""
    if not path.is_dir():
        return path.suffix == ".safetensors"
    return any((path / f"{stem}.safetensors{end}").is_file() for stem in _STEMS for end in ("", ".index.json"))


def read_model_config(path: Path) -> dict[str, Any]:
    """Read a base model's config.json as plain data. Raises BaseError."""
    return _read_object(path)


def config_facts(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Give architecture, model_type, dtype and quantization as a config.json states them, None where it does not."""
    architectures = config.get("architectures")
    quantization = config.get("quantization_config")
    return {
        "architecture": _text(architectures[0]) if isinstance(architectures, list) and architectures else None,
        "model_type": _text(config.get("model_type")),
        "dtype": _text(config.get("dtype")) or _text(config.get("torch_dtype")),
        "quantization": _quantization(quantization) if isinstance(quantization, dict) else None,
    }


def _quantization(section: Mapping[str, Any]) -> str:
    # bitsandbytes configs written before quant_method existed carry only the load_in flags.
    return _text(section.get("quant_method")) or "unknown"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _facts(config: Mapping[str, Any], stored: tuple[_Stored, ...]) -> BaseFacts:
    content = {tensor.name: (tensor.dtype, tensor.shape, tensor.sample) for tensor in stored}
    shapes = {tensor.name: tensor.shape for tensor in stored}
    parameters = layout_parameters(shapes, tied_twins(content))
    stated = config_facts(config)
    return BaseFacts(
        layout=layout(parameters),
        parameters=parameters,
        fingerprint=fingerprint((name, *rest) for name, rest in content.items()),
        architecture=stated["architecture"],
        model_type=stated["model_type"],
        dtype=stated["dtype"] or _widest_share(stored),
        quantization=stated["quantization"],
        tensors=len(stored),
        config=config,
    )


def _widest_share(stored: tuple[_Stored, ...]) -> str | None:
    """Name the dtype that most bytes have, as configs spell it."""
    sizes: Counter[str] = Counter()
    for tensor in stored:
        sizes[tensor.dtype] += tensor.size
    if not sizes:
        return None
    dtype = max(sorted(sizes), key=sizes.__getitem__)
    return _CONFIG_DTYPES.get(dtype, dtype)


def _read_tensors(files: tuple[tuple[Path, frozenset[str] | None], ...]) -> tuple[_Stored, ...]:
    # An index gives a tensor one place and each shard holds exactly what it is given, so no name comes twice.
    return tuple(tensor for file, promised in files for tensor in _read_file(file, promised))


def _read_file(file: Path, promised: frozenset[str] | None) -> list[_Stored]:
    real, header = _read_header(file, promised)
    descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [_sampled(descriptor, header.data_offset, tensor) for tensor in header.tensors.values()]
    except (OSError, EOFError) as error:
        raise BaseError(file, f"changed or became unreadable while it was read: {error}") from error
    finally:
        os.close(descriptor)


def _read_header(file: Path, promised: frozenset[str] | None) -> tuple[Path, Header]:
    # A hub cache holds its files as links into a blob folder, and the header reader opens no link.
    real = file.resolve()
    header = read_header(real)
    if promised is not None:
        _compare_with_index(file, promised, frozenset(header.tensors))
    return real, header


def _sampled(descriptor: int, offset: int, tensor: TensorInfo) -> _Stored:
    sample = sample_digest(descriptor, offset + tensor.start, offset + tensor.end)
    return _Stored(tensor.name, tensor.dtype, tensor.shape, tensor.size, sample)


def _compare_with_index(file: Path, promised: frozenset[str], found: frozenset[str]) -> None:
    if missing := sorted(promised - found):
        raise BaseError(file, f"the index places {missing[0]} here, the file has no such tensor{_more(missing)}")
    if extra := sorted(found - promised):
        raise BaseError(file, f"holds {extra[0]}, which the index does not place here{_more(extra)}")


def _more(names: list[str]) -> str:
    return f" ({len(names)} such tensors)" if len(names) > 1 else ""


def _indexed_files(index: Path) -> tuple[tuple[Path, frozenset[str] | None], ...]:
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BaseError(index, "expected a non-empty object under weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(_shard_name(index, tensor, shard), set()).add(tensor)
    for shard, tensors in shards.items():
        if not (index.parent / shard).is_file():
            raise BaseError(index, f"shard {shard} is missing; it should hold {len(tensors)} tensors")
    return tuple((index.parent / shard, frozenset(tensors)) for shard, tensors in sorted(shards.items()))


def _shard_name(index: Path, tensor: str, shard: object) -> str:
    if isinstance(shard, str) and shard.endswith(".safetensors") and "/" not in shard and "\\" not in shard:
        return shard
    raise BaseError(index, f"tensor {tensor} is placed in {shard!r}, expected a .safetensors file beside the index")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_JSON + 1)
    except OSError as error:
        raise BaseError(path, f"cannot be read: {error.strerror}") from error
    if len(text) > _MAX_JSON:
        raise BaseError(path, f"larger than {_MAX_JSON} bytes")
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BaseError(path, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BaseError(path, f"expected a JSON object, found {type(value).__name__}")
    return value


def _no_weights(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    shards = sorted(name for name in names if name.startswith("model-") and name.endswith(".safetensors"))
    if shards:
        return f"holds {shards[0]} and other shards but no model.safetensors.index.json"
    if "pytorch_model.bin" in names or "pytorch_model.bin.index.json" in names:
        return "holds only pickle weights (.bin), which are never opened; save the model as safetensors"
    return "holds neither model.safetensors nor model.safetensors.index.json"
