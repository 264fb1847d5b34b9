"""Which files of a folder make a version. Pure: names in, names out."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

REQUIRED = (CONFIG_NAME, WEIGHTS_NAME)

_COMPANIONS = (
    "README*",
    "tokenizer*",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that travel with an adapter: its card and what turns text, images or sound into model inputs."""

_NEVER_BY_DEFAULT = ("*.py", "*.so", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle")
"""Code and pickles come along only when they are asked for by name, however they are called."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`included` and `left_out` together are the folder, each sorted; `missing` are required names that are absent.

    `unused` are the include patterns that no file matched.
    """

    included: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def select_files(names: Iterable[str], include: Iterable[str] = ()) -> Selection:
    """Chooses among `names`, paths relative to the folder with `/` between components.

    In an include pattern `*` and `?` stay within a component and `**` stands for any number of folders.
    """
    everything = sorted(set(names))
    asked = {pattern: {name for name in everything if _matches(name, pattern)} for pattern in include}
    included = {name for name in everything if _belongs(name)}.union(*asked.values())
    return Selection(
        included=tuple(name for name in everything if name in included),
        left_out=tuple(name for name in everything if name not in included),
        missing=tuple(name for name in REQUIRED if name not in everything),
        unused=tuple(pattern for pattern, found in asked.items() if not found),
    )


def _belongs(name: str) -> bool:
    if name in REQUIRED:
        return True
    if any(fnmatchcase(name, pattern) for pattern in _NEVER_BY_DEFAULT):
        return False
    return any(_matches(name, pattern) for pattern in _COMPANIONS)


def _matches(name: str, pattern: str) -> bool:
    return _parts_match(name.split("/"), pattern.split("/"))


def _parts_match(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_parts_match(name[start:], pattern[1:]) for start in range(len(name))) or len(pattern) == 1
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _parts_match(name[1:], pattern[1:])
