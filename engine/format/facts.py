"""What is known of an adapter and of a base model without opening a tensor: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.format.configs.config import AdapterConfig
    from engine.format.files.tensors import Header

ModuleKind = Literal["linear", "embedding", "conv1d", "conv2d", "conv3d", "parameter", "unknown"]


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """One adapted module.

    `name` is the path on disk without `base_model.model.`; it equals the path in the base model (`base_name`) except
    where PEFT put a `base_layer` in between (attention's out_proj, nested parameters). Shapes are those on disk: A is
    (r, in, *kernel) and B (out, r, *ones) for linear and conv, A (r, vocab) and B (dim, r) for embeddings. `rank` is
    A's first dimension, but for kind `parameter` the configured rank (A there holds rank rows per expert);
    `configured_rank` is what r and rank_pattern say. `scaling` is alpha/r or alpha/sqrt(r) with this module's own r and
    alpha (PEFT's matching rule), applied once. `norm` is the Frobenius norm of ΔW and `spectrum` its singular values,
    where they are known.
    """

    name: str
    kind: ModuleKind
    rank: int
    alpha: float
    scaling: float
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    dtype: str
    a_key: str
    b_key: str
    extras: tuple[str, ...] = ()  # other tensors of this module: magnitude vector, bias, …
    configured_rank: int | None = None
    norm: float | None = None
    spectrum: tuple[float, ...] | None = None

    @property
    def base_name(self) -> str:
        """The module's path in the base model: without PEFT's own `base_layer` components."""
        if "base_layer" not in self.name:
            return self.name
        return ".".join(part for part in self.name.split(".") if part != "base_layer")

    def as_json(self) -> dict[str, Any]:
        """The compact object stored per version and shown by `show`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "rank": self.rank,
            "alpha": self.alpha,
            "scaling": self.scaling,
            "a_shape": list(self.a_shape),
            "b_shape": list(self.b_shape),
            "dtype": self.dtype,
            "norm": self.norm,
            "spectrum": None if self.spectrum is None else list(self.spectrum),
        }


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """An adapter folder, read and not yet judged.

    `modules` are the complete A/B pairs; `incomplete` the module paths that miss a half (with the tensors present);
    `others` the tensors that are no factor but belong (modules_to_save copies, biases, token rows, …), by role;
    `unmatched` the tensors that nothing in the config explains. `peft_type` other than LORA has no modules.
    """

    path: Path
    config: AdapterConfig
    weights: Path
    header: Header
    modules: tuple[ModuleFacts, ...]
    incomplete: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)  # tensor name -> role
    unmatched: tuple[str, ...] = ()

    @property
    def rank(self) -> int | None:
        """The largest effective rank, None where there is none."""
        return max((module.rank for module in self.modules), default=None)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """A base model as far as its files tell.

    `parameters` maps the canonical parameter path (no dtype, no model prefix) to its shape. `fingerprint` is over
    sorted (name, shape, dtype, first/middle/last 4 KiB) of every tensor, None for config-only bases; `layout` over
    sorted (canonical path, shape). Both are `sha256:` + 64 hex. `norms` maps canonical parameter paths to their
    Frobenius norms, empty where the weights were not streamed.
    """

    layout: str
    parameters: Mapping[str, tuple[int, ...]]
    fingerprint: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    tensors: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
