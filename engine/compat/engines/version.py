"""Release numbers of serving engines, ordered as Python packages order them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN = re.compile(
    r"v?(?P<release>\d{1,9}(?:\.\d{1,9}){0,5})"
    r"(?:\.?(?P<stage>a|b|rc|dev)(?P<number>\d{1,9}))?"
    r"(?:\.?post(?P<post>\d{1,9}))?"
    r"(?:\+[0-9A-Za-z.]{1,64})?"
)
_STAGES = {"dev": -4, "a": -3, "b": -2, "rc": -1}


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A release number; `0.33` equals `0.33.0`, a release candidate comes before its release, a post release after."""

    release: tuple[int, ...]
    stage: tuple[int, int] = (0, 0)
    post: int = -1

    def __str__(self) -> str:
        stage = {value: name for name, value in _STAGES.items()}.get(self.stage[0])
        text = ".".join(map(str, self.release or (0,)))
        text += "" if stage is None else f".dev{self.stage[1]}" if stage == "dev" else f"{stage}{self.stage[1]}"
        return text + (f".post{self.post}" if self.post >= 0 else "")


def parse_version(text: str) -> Version | None:
    """The release number in `text`, None where it is none."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    numbers = [int(part) for part in found["release"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    stage = (0, 0) if found["stage"] is None else (_STAGES[found["stage"]], int(found["number"]))
    return Version(tuple(numbers), stage, -1 if found["post"] is None else int(found["post"]))
