"""Rules over the tensor table alone: are the pairs whole, and do the names belong?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.format.names.peftnames import peft_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.compat.rule import Subject


_RENAME = "adapters convert REF --for peft"


def incomplete(subject: Subject) -> Iterator[Hit]:
    mended = _renaming(subject.facts.unmatched)  # the other half may be there under another name
    for module, tensors in subject.facts.incomplete.items():
        found = listed(tensors) if tensors else "none"
        yield Hit(f"module {module}: expected both LoRA factors A and B, found only {found}", module, mended)


def unmatched(subject: Subject) -> Iterator[Hit]:
    for tensor in subject.facts.unmatched:
        yield Hit(
            f"tensor {tensor}: nothing in adapter_config.json explains it, PEFT would drop or misplace it",
            tensor,
            _renaming([tensor]) if subject.facts.config.lora else None,
        )


def prefix(subject: Subject) -> Iterator[Hit]:
    names = sorted(subject.facts.header.tensors)
    bare = [name for name in names if not name.startswith("base_model.")]
    if bare and "prompt_embeddings" not in names:
        yield Hit(
            f"{len(bare)} of {len(names)} tensor names lack the prefix base_model.model. (first: {bare[0]}); "
            "PeftModel.from_pretrained ignores such tensors",
            bare[0],
            _RENAME if subject.facts.config.lora else None,
        )


def _renaming(tensors: Iterable[str]) -> str | None:
    """The command, where PEFT would have written one of them under another name."""
    return _RENAME if any(peft_name(name) != name for name in tensors) else None


def mixed_dtypes(subject: Subject) -> Iterator[Hit]:
    dtypes = sorted({tensor.dtype for tensor in subject.facts.header.tensors.values()})
    if len(dtypes) > 1:
        yield Hit(f"tensors have {len(dtypes)} dtypes: {', '.join(dtypes)}")


def nothing_adapted(subject: Subject) -> Iterator[Hit]:
    if not subject.facts.header.tensors:
        yield Hit("the weights file holds no tensor: loading it changes nothing", where=subject.facts.weights.name)
