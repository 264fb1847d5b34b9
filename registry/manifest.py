"""Canonical JSON of a version: the manifest that its digest is of, and the record the catalog can be rebuilt from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from registry.digests import is_digest
from registry.errors import UsageError
from registry.paths import clashing, path_problem
from registry.results import FileEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA = 1
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ParentRecord:
    """A version this one came from."""

    digest: str
    relation: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base a version was made for, as far as it was known then."""

    name: str | None
    fingerprint: str | None = None
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What a version leaves in the blob store beside its files. `manifest` is the version's digest."""

    name: str
    number: int
    manifest: str
    parents: tuple[ParentRecord, ...] = ()
    base: BaseRecord | None = None
    recipe: Mapping[str, Any] | None = None


def canonical_json(value: object) -> bytes:
    """UTF-8, keys sorted, no spaces, no NaN: equal values are equal bytes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


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
    document = _object(_parse(content, "manifest"), {"schema", "files"}, "manifest")
    _check_schema(document, "manifest")
    if not isinstance(document["files"], list):
        _refuse("manifest", "files is no list")
    rows = [_object(row, {"path", "sha256", "size"}, "manifest") for row in document["files"]]
    files = tuple(FileEntry(row["path"], row["sha256"], row["size"]) for row in rows)
    _check_entries(files)
    if manifest_bytes(files) != content:
        _refuse("manifest", "is not in canonical form")
    return files


def record_bytes(record: VersionRecord) -> bytes:
    """The record as canonical JSON. `kind` tells it from a manifest."""
    parents = [{"digest": one.digest, "relation": one.relation, "weight": one.weight} for one in record.parents]
    base = record.base and {
        "name": record.base.name,
        "fingerprint": record.base.fingerprint,
        "layout": record.base.layout,
    }
    fields = {"name": record.name, "number": record.number, "manifest": record.manifest, "recipe": record.recipe}
    return canonical_json({"schema": SCHEMA, "kind": "version", "parents": parents, "base": base, **fields})


def parse_record(content: bytes) -> VersionRecord:
    """The record in some bytes; UsageError where they are none. Fields of a later minor version are passed over."""
    needed = {"schema", "kind", "name", "number", "manifest", "parents", "base", "recipe"}
    document = _object(_parse(content, "record"), needed, "record", more=True)
    _check_schema(document, "record")
    if document["kind"] != "version":
        _refuse("record", f"is of kind {document['kind']!r}")
    _check_record(document)
    base = document["base"]
    return VersionRecord(
        name=document["name"],
        number=document["number"],
        manifest=document["manifest"],
        parents=tuple(_parent(one) for one in document["parents"]),
        base=None if base is None else _base(base),
        recipe=document["recipe"],
    )


def _check_record(document: Mapping[str, Any]) -> None:
    if not isinstance(document["name"], str):
        _refuse("record", "name is no text")
    if not _is_count(document["number"]) or document["number"] == 0:
        _refuse("record", f"number is {document['number']!r}")
    if not _is_digest(document["manifest"]):
        _refuse("record", "manifest is no digest")
    if not isinstance(document["parents"], list):
        _refuse("record", "parents is no list")
    if not isinstance(document["recipe"], (dict, type(None))):
        _refuse("record", "recipe is no object")


def _parent(row: object) -> ParentRecord:
    fields = _object(row, {"digest", "relation", "weight"}, "record", more=True)
    weight = fields["weight"]
    if not _is_digest(fields["digest"]) or not isinstance(fields["relation"], str):
        _refuse("record", "a parent has no digest or relation")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float))):
        _refuse("record", f"a parent's weight is {weight!r}")
    return ParentRecord(fields["digest"], fields["relation"], None if weight is None else _finite(weight))


def _finite(weight: float) -> float:
    if abs(weight) > 1e308 or not math.isfinite(weight):
        _refuse("record", "a parent's weight is not finite")
    return float(weight)


def _base(row: object) -> BaseRecord:
    fields = _object(row, {"name", "fingerprint", "layout"}, "record", more=True)
    values = fields["name"], fields["fingerprint"], fields["layout"]
    if not all(value is None or isinstance(value, str) for value in values):
        _refuse("record", "base has a field that is no text")
    return BaseRecord(*values)


def _check_entries(files: Iterable[FileEntry]) -> None:
    paths = []
    for entry in files:
        if not isinstance(entry.path, str) or (problem := path_problem(entry.path)):
            _refuse(
                "manifest", f"path {str(entry.path)[:120]!r} {problem if isinstance(entry.path, str) else 'is no text'}"
            )
        if not _is_digest(entry.sha256) or not _is_count(entry.size):
            _refuse("manifest", f"{entry.path!r} has no sha256 or size")
        paths.append(entry.path)
    if pair := clashing(paths):
        _refuse("manifest", f"{pair[0]!r} and {pair[1]!r} cannot lie side by side on every file system")


def _parse(content: bytes, what: str) -> object:
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what}: not readable as JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _object(value: object, keys: set[str], what: str, *, more: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict) or not keys <= value.keys() or (not more and keys != value.keys()):
        _refuse(what, f"expected an object of {', '.join(sorted(keys))}")
    return value


def _check_schema(document: Mapping[str, Any], what: str) -> None:
    if document["schema"] != SCHEMA or isinstance(document["schema"], bool):
        _refuse(what, f"schema {document['schema']!r}, this version reads {SCHEMA}")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and is_digest(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _refuse(what: str, reason: str) -> NoReturn:
    raise UsageError(f"{what}: {reason}")
