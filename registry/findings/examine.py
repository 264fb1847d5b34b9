"""What the files of a version say: facts, values, digest, and the rows and documents that follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.compat.check import check_adapter
from engine.format.adapter import CONFIG_NAME, read_adapter, read_adapter_files
from engine.format.numbers.values import scan_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from engine.compat.finding import Finding
    from engine.compat.rule import Licensing
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts


_LARGE = 32 << 20
_THREADS = 2
_LONGEST_NAME = 1024


@dataclass(frozen=True, slots=True)
class Examined:
    """An adapter folder, read once: every tensor's values were looked at and hashed."""

    facts: AdapterFacts
    values: ValueFacts

    def findings(
        self,
        *,
        base: BaseFacts | None,
        base_known: bool | None,
        base_name: str | None,
        files: Iterable[str],
        licensing: Licensing | None = None,
    ) -> tuple[Finding, ...]:
        """What the check-in rules say."""
        return check_adapter(
            self.facts,
            values=self.values,
            base=base,
            base_known=base_known,
            base_name=base_name,
            files=files,
            licensing=licensing,
        )

    @property
    def norm(self) -> float | None:
        """Frobenius norm over all ΔW together; None where one of them is unknown, or there is none."""
        norms = list(self.values.norms.values())
        if not norms or any(norm is None for norm in norms):
            return None
        total = math.hypot(*(norm for norm in norms if norm is not None))
        return total if math.isfinite(total) else None

    @property
    def dtype(self) -> str | None:
        """The dtype of all tensors, `mixed` where they have several."""
        dtypes = {info.dtype for info in self.facts.header.tensors.values()}
        return dtypes.pop() if len(dtypes) == 1 else ("mixed" if dtypes else None)

    @property
    def parameters(self) -> int:
        """Elements of all tensors together."""
        return sum(info.count for info in self.facts.header.tensors.values())


def examine(folder: Path, *, weights: Path | None = None, digest: bool = True) -> Examined:
    """Read an adapter folder, or one whose `weights` lie elsewhere; without `digest` the tensors have none. Raises
    engine.errors.UnreadableError or PatternError where it is no adapter.
    """
    facts = read_adapter(folder) if weights is None else read_adapter_files(folder / CONFIG_NAME, weights)
    # Small tensors are not worth a thread.
    threads = 1 if facts.header.file_size < _LARGE else _THREADS
    return Examined(facts, scan_values(facts, threads=threads, digest=digest))


def named_base(facts: AdapterFacts) -> str | None:
    """The base that the config names, in the form a catalog can hold: PostgreSQL's text takes no NUL, names an end."""
    name = facts.config.base_model_name_or_path
    return name and name.replace("\0", "\ufffd")[:_LONGEST_NAME]


def documents(
    examined: Examined, *, spectra: Mapping[str, Sequence[float]], report: Mapping[str, Any] | None
) -> dict[str, str]:
    """The compact JSON documents stored with a version. `spectra` are singular values by module, where known."""
    from registry.findings.storedfacts import KIND, facts_document  # a check of a folder needs none of it

    norms = examined.values.norms
    modules = [
        replace(module, norm=_finite(norms.get(module.name)), spectrum=tuple(spectra.get(module.name, ())) or None)
        for module in examined.facts.modules
    ]
    found: dict[str, Any] = {
        "config": examined.facts.config.raw,
        "modules": [module.as_json() for module in modules],
        KIND: facts_document(examined.facts, examined.values),
    }
    if report is not None:
        found["report"] = report
    return {kind: json.dumps(body, ensure_ascii=False, separators=(",", ":")) for kind, body in found.items()}


def _finite(norm: float | None) -> float | None:
    return norm if norm is not None and math.isfinite(norm) else None
