"""The class of transformers that an adapter was trained on, by name: of its task, or as PEFT noted it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.format.facts import AdapterFacts

_TABLES = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}
"""PEFT's tasks whose head no base has, by the table in transformers' modeling_auto."""


def class_of(facts: AdapterFacts, model_type: str | None) -> str | None:
    """None where the adapter tells of no class that transformers has for bases of that type."""
    task = facts.config.task_type
    if task is None:
        return _noted(facts, model_type)
    return next((name for kind, name in _rows(_TABLES.get(task, "")) if kind == model_type), None)


def _noted(facts: AdapterFacts, model_type: str | None) -> str | None:
    """The class that PEFT writes for an adapter without a task."""
    noted = facts.config.raw.get("auto_mapping")
    name = noted.get("base_model_class") if isinstance(noted, dict) else None
    return next((row for kind, row in _rows("") if row == name and kind == model_type), None)


def _rows(table: str) -> Iterator[tuple[str, str]]:
    """(model_type, class) of one of transformers' tables, or of all of them."""
    from transformers.models.auto import modeling_auto

    for name, rows in vars(modeling_auto).items():
        if name == table or (not table and name.startswith("MODEL_") and name.endswith("_MAPPING_NAMES")):
            for kind, row in rows.items():
                yield from ((kind, one) for one in ((row,) if isinstance(row, str) else row))
