"""`hf://org/name`, `hf://org/name/sub/folder@REV`: a place on the Hub, parsed once at the edge."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import UsageError
from registry.values.paths import path_problem

SCHEME = "hf://"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+=-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_OTHER_KINDS = frozenset({"datasets", "spaces", "kernels", "buckets"})
_EXPECTED = "expected hf://org/name, hf://org/name@REV or hf://org/name/folder@REV"


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A folder of a model repo at a revision. `repo` is `org/name`, `folder` empty or a plain relative path,
    `revision` a branch, tag, commit or `refs/pr/N`; None means the repo's main branch.
    """

    repo: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{'/'.join(filter(None, (self.repo, self.folder)))}{at}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a whole commit, which never moves."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def within(self, path: str) -> str:
        """A path below the folder as the repo names it."""
        return f"{self.folder}/{path}" if self.folder else path


@dataclass(frozen=True, slots=True)
class HubPattern:
    """All model repos of an account whose name matches a glob."""

    owner: str
    glob: str = "*"

    def __str__(self) -> str:
        return f"{SCHEME}{self.owner}/{self.glob}"


def is_hub(text: str) -> bool:
    """Whether a text names a place on the Hub."""
    return text[: len(SCHEME)].lower() == SCHEME


def parse_place(text: str) -> HubPlace:
    """A place; UsageError where the text is none."""
    head, at, revision = text[len(SCHEME) :].partition("@")
    parts = head.removesuffix("/").split("/")
    if not is_hub(text) or len(parts) < 2:
        raise UsageError(f"{text[:200]!r}: {_EXPECTED}")
    if parts[0] in _OTHER_KINDS:
        raise UsageError(f"{text[:200]!r}: adapters lie in model repos, not in {parts[0]}")
    repo = "/".join(_part(part, text) for part in parts[:2])
    folder = "/".join(parts[2:])
    if folder and (problem := path_problem(folder)):
        raise UsageError(f"{text[:200]!r}: the folder {problem}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise UsageError(f"{text[:200]!r}: {revision[:80]!r} is no branch, tag, commit or refs/pr/N")
    return HubPlace(repo, folder, revision if at else None)


def parse_pattern(text: str) -> HubPattern:
    """`hf://org/*`, or another glob over names; UsageError where the text is none."""
    owner, _, glob = text[len(SCHEME) :].partition("/")
    if not is_hub(text) or not glob or "/" in glob or "@" in glob:
        raise UsageError(f"{text[:200]!r}: expected hf://org/*")
    return HubPattern(_part(owner, text), glob)


def _part(part: str, text: str) -> str:
    if not _PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
        raise UsageError(f"{text[:200]!r}: {part[:100]!r} cannot be a name on the Hub; {_EXPECTED}")
    return part
