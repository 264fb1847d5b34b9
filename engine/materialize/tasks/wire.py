"""Tasks, and what they wrote, as JSON and back: what an executor on other machines would send."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from engine.materialize.changes import CHANGES
from engine.materialize.stored.place import Place, Stored
from engine.materialize.tasks.execute import Written
from engine.materialize.tasks.sums import Sums
from engine.materialize.tasks.task import Task

_TAG = "is"
_CLASSES: dict[str, Any] = {**CHANGES, **{kind.__name__: kind for kind in (Place, Stored, Sums, Task, Written)}}


def to_json(value: object) -> Any:
    """Plain data: a value of ours is an object with its class's name under `is`, a tuple is a list, a path its text."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {one.name: to_json(getattr(value, one.name)) for one in fields(value)}
        return {_TAG: type(value).__name__, **named}
    if isinstance(value, dict):
        return {key: to_json(held) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(held) for held in value]
    return str(value) if isinstance(value, Path) else value


def from_json(value: Any) -> Any:
    """What `to_json` was given. Raises KeyError for a class that is no value of ours, TypeError for wrong fields."""
    if isinstance(value, list):
        return tuple(from_json(held) for held in value)
    if not isinstance(value, dict):
        return value
    held = {key: from_json(one) for key, one in value.items() if key != _TAG}
    if _TAG not in value:
        return held
    if value[_TAG] == Place.__name__:
        held["file"] = Path(held["file"])
    return _CLASSES[value[_TAG]](**held)
