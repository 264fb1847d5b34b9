"""The globals that a pickle may name, and what each makes of its arguments: values that describe, never tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from engine.convert.opcodes import Global
from engine.convert.refusal import Refusal
from engine.format.files.header import BITS

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DIMENSIONS = 16
MAX_ELEMENTS = 2**40

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}
"""Torch's dtypes that safetensors can hold, and its name of each."""

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}


@dataclass(frozen=True, slots=True)
class StorageKind:
    """A class of storage; `dtype` is None for bytes that get one from the tensor."""

    dtype: str | None


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype, as safetensors spells it."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements that the file keeps under `key`; `count` of them, of one byte where the kind has no dtype."""

    kind: StorageKind
    key: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (BITS[self.kind.dtype] // 8 if self.kind.dtype else 1)


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor that the pickle would build: a view of a storage, `offset` and `stride` in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return BITS[self.dtype] // 8

    @property
    def size(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.width

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one behind the other in the order of their indices."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length != 1 and stride != step:
                return 0 in self.shape
            step *= length
        return True


class Ordered(dict[str, Any]):
    """A collections.OrderedDict; told from a plain dictionary, because it alone may get attributes."""


def storage(fields: Any, *, views: bool) -> Storage:
    """The storage that a persistent id names; `views`: the older layout, which adds a field that must be None."""
    expected = 6 if views else 5
    if not isinstance(fields, tuple) or len(fields) != expected or (views and fields[5] is not None):
        raise Refusal("a persistent id that names no storage as torch does")
    word, kind, key, location, count = fields[:5]
    if word != "storage" or not isinstance(kind, StorageKind) or not _text(location) or not _natural(count):
        raise Refusal("a persistent id that names no storage as torch does")
    if not _text(key) or not (key.isascii() and key.isdigit() and len(key) <= 20):
        raise Refusal("a persistent id whose key is no number")
    if views and kind.dtype is None:
        raise Refusal("a storage without a dtype, which torch's older layout does not load")
    if location == "meta":
        raise Refusal("a storage on the meta device, which has no elements")
    return Storage(kind, key, count)


def _ordered(_arguments: tuple[Any, ...]) -> Ordered:
    return Ordered()


def _tensor_v2(arguments: tuple[Any, ...]) -> Described:
    held = arguments[0]
    if not isinstance(held, Storage) or held.kind.dtype is None:
        raise Refusal("a tensor whose storage has no dtype")
    return _view(held, held.kind.dtype, arguments[1:])


def _tensor_v3(arguments: tuple[Any, ...]) -> Described:
    held, dtype = arguments[0], arguments[6]
    if not isinstance(held, Storage) or held.kind.dtype is not None or not isinstance(dtype, Dtype):
        raise Refusal("a tensor whose storage or dtype is none")
    return _view(held, dtype.name, arguments[1:6])


def _parameter(arguments: tuple[Any, ...]) -> Described:
    data, grad, hooks = arguments
    if not isinstance(data, Described) or not isinstance(grad, bool) or hooks != {}:
        raise Refusal("a parameter that is no plain tensor")
    return data


def _view(held: Storage, dtype: str, arguments: tuple[Any, ...]) -> Described:
    offset, shape, stride, grad, hooks = arguments
    if not isinstance(grad, bool) or not isinstance(hooks, Ordered) or hooks:
        raise Refusal("a tensor with hooks")
    if not (_sizes(shape) and _sizes(stride) and len(shape) == len(stride) and _natural(offset)):
        raise Refusal("a tensor whose shape, strides or offset are no small whole numbers")
    view = Described(held, dtype, offset, shape, stride)
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * view.width > held.size:
        raise Refusal(f"a tensor of {dtype} {list(shape)} that reaches behind the end of its storage")
    if view.size > held.size:
        raise Refusal(f"a tensor of {dtype} {list(shape)} that repeats the elements of its storage")
    return view


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_ELEMENTS


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(_natural, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


CALLABLE: dict[Global, tuple[int, Callable[[tuple[Any, ...]], Any]]] = {
    Global("collections", "OrderedDict"): (0, _ordered),
    Global("torch._utils", "_rebuild_tensor_v2"): (6, _tensor_v2),
    Global("torch._utils", "_rebuild_tensor_v3"): (7, _tensor_v3),
    Global("torch._utils", "_rebuild_parameter"): (3, _parameter),
}
"""What REDUCE may call: the exact number of arguments, and the description that stands for the result."""

NAMED: dict[Global, Any] = {
    **{Global("torch", name): StorageKind(dtype) for name, dtype in _STORAGES.items()},
    Global("torch.storage", "UntypedStorage"): StorageKind(None),
    **{Global("torch", name): Dtype(dtype) for name, dtype in DTYPES.items()},
}
"""What may be named but not called."""
