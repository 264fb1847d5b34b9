"""The manifest of a version: canonical JSON of its files, whose sha256 is the version's digest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from registry.results import FileEntry
from registry.values.paths import clashing, path_problem
from registry.values.strictjson import SCHEMA, check_schema, expect_object, is_count, is_digest_text, parse, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable


def manifest_bytes(files: Iterable[FileEntry]) -> bytes:
    """`{"schema":1,"files":[{"path":…,"sha256":…,"size":…}]}`, files by path in order of code points.

    UsageError for paths that are not portable or that clash, and for what is no digest or size.
    """
    entries = sorted(files, key=lambda entry: entry.path)
    _check_entries(entries)
    rows = [{"path": entry.path, "sha256": entry.sha256, "size": entry.size} for entry in entries]
    content = {"schema": SCHEMA, "files": rows}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def parse_manifest(content: bytes) -> tuple[FileEntry, ...]:
    """The files of a manifest; UsageError for anything that manifest_bytes would not have written, byte for byte."""
    document = expect_object(parse(content, "manifest"), {"schema", "files"}, "manifest")
    check_schema(document, "manifest")
    if not isinstance(document["files"], list):
        refuse("manifest", "files is no list")
    rows = [expect_object(row, {"path", "sha256", "size"}, "manifest") for row in document["files"]]
    files = tuple(FileEntry(row["path"], row["sha256"], row["size"]) for row in rows)
    _check_entries(files)
    if manifest_bytes(files) != content:
        refuse("manifest", "is not in canonical form")
    return files


def _check_entries(files: Iterable[FileEntry]) -> None:
    paths = []
    for entry in files:
        if not isinstance(entry.path, str) or (problem := path_problem(entry.path)):
            refuse(
                "manifest", f"path {str(entry.path)[:120]!r} {problem if isinstance(entry.path, str) else 'is no text'}"
            )
        if not is_digest_text(entry.sha256) or not is_count(entry.size):
            refuse("manifest", f"{entry.path!r} has no sha256 or size")
        paths.append(entry.path)
    if pair := clashing(paths):
        refuse("manifest", f"{pair[0]!r} and {pair[1]!r} cannot lie side by side on every file system")
