"""What a file's path inside a version may be: relative, portable, printable, and unlike every other."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_RESERVED = frozenset('\\:*?"<>|')
_LONGEST_PART = 255
_LONGEST_PATH = 1024


def path_problem(path: str) -> str | None:
    """Why this cannot be the path of a version's file; None where it can."""
    if any(unicodedata.category(character) in _HIDDEN for character in path):
        return "has control, invisible or undecodable characters"
    if len(path.encode()) > _LONGEST_PATH:
        return f"is longer than {_LONGEST_PATH} bytes"
    for part in path.split("/"):
        if problem := _part_problem(part):
            return problem
    return None


def clashing(paths: Iterable[str]) -> tuple[str, str] | None:
    """The first two paths that some file system would take for one: equal but for case or accents' encoding,
    or a file where another path needs a folder.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        parts = key.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        other = files.get(key) or folders.get(key) or next((files[place] for place in above if place in files), None)
        if other is not None:
            return other, path
        files[key] = path
        folders.update(dict.fromkeys(above, path))
    return _folder_clash(files.values())


def _folder_clash(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two files in folders whose names differ only in case."""
    spelt: dict[str, tuple[str, str]] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            first, owner = spelt.setdefault(_folded(folder), (folder, path))
            if first != folder:
                return owner, path
    return None


def _part_problem(part: str) -> str | None:
    if part in ("", ".", ".."):
        return "is not a plain relative path"
    if reserved := sorted(_RESERVED.intersection(part)):
        return f"has {reserved[0]!r}, which is not portable"
    if part != part.strip(" ") or part.endswith("."):
        return "starts or ends with a space or ends with a dot, which is not portable"
    if part.split(".", 1)[0].lower() in _DEVICES:
        return "is a device name on Windows"
    return f"has a part longer than {_LONGEST_PART} bytes" if len(part.encode()) > _LONGEST_PART else None


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
