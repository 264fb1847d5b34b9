"""The sentences of the two demo tasks, spelled out from the hand-written templates in data/."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DATA = Path(__file__).parent / "data"
TASKS = ("act", "progress")

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Sentence:
    text: str
    label: str


def sentences(task: str, split: Split) -> tuple[Sentence, ...]:
    """Every template of the split with each of its topics, in the order of the file."""
    task_file = tomllib.loads((DATA / f"{task}.toml").read_text("utf-8"))
    topics = task_file["topics"][split]
    return tuple(
        Sentence(_spell_out(template, topic), label)
        for label, templates in task_file[split].items()
        for template in templates
        for topic in topics
    )


def _spell_out(template: str, topic: str) -> str:
    text = template.format(x=topic)
    return text[0].upper() + text[1:]
