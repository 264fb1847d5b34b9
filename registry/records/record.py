"""The record of a version: a small blob that says what its files do not, so that the catalog can be made again.

A record is written when its version is made, and again (with the next `sequence`) when what it says has changed: an
edge was added, the base became known, the version was deleted or came back. Labels are not in it: tags, metrics and
aliases change too often for a durable file each, and only backups and bundles carry them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from registry.records.draft import RELATIONS
from registry.values.refs import Name, parse_name
from registry.values.strictjson import (
    SCHEMA,
    canonical_json,
    check_schema,
    expect_object,
    is_count,
    is_digest_text,
    is_number,
    is_text,
    parse_canonical,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHAT = "record"
_LONGEST_BASE = 1024
_LONGEST_FIELD = 64
_LONGEST_SOURCE = 1024
# the columns' lengths
_SUMMARY_TEXTS = {"tensors_digest": 71, "peft_type": 64, "dtype": 16}
_SUMMARY_COUNTS = ("rank", "modules", "parameters")
_ORIGIN_TEXTS = {
    "created_at": 40,
    "deleted_at": 40,
    "message": 4096,
    "pushed_by": 256,
    "git_commit": 64,
    "run_id": 256,
    "data_digest": 256,
    "licence": 256,
}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_REF = re.compile(r"([a-z0-9._-]+/[a-z0-9._-]+)@([1-9][0-9]{0,18})", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ParentRecord:
    """A version this one came from; `ref` is `namespace/name@number` where that was a version of this registry."""

    digest: str
    relation: str
    weight: float | None = None
    ref: str | None = None

    @property
    def place(self) -> tuple[Name, int] | None:
        """The name and number of `ref`."""
        match = _REF.fullmatch(self.ref or "")
        return None if match is None else (parse_name(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base of a version, as far as it is known; `facts` is the digest of the blob that holds all its facts."""

    name: str | None
    fingerprint: str | None = None
    layout: str | None = None
    facts: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What the files say, in short: it stays when the files are freed."""

    peft_type: str
    modules: int
    tensors_digest: str | None = None
    rank: int | None = None
    parameters: int | None = None
    dtype: str | None = None
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the version, when and from what; moments in ISO 8601, UTC."""

    created_at: str | None = None
    deleted_at: str | None = None
    message: str | None = None
    pushed_by: str | None = None
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What a version leaves in the blob store beside its files. `manifest` is the version's digest, `report` that of
    the blob with the report of its merge, `sources` who said what of its origin. Records of earlier releases have
    neither summary, origin, sequence nor sources, and their readers pass them over.
    """

    name: str
    number: int
    manifest: str
    parents: tuple[ParentRecord, ...] = ()
    base: BaseRecord | None = None
    recipe: Mapping[str, Any] | None = None
    sequence: int = 0
    summary: Summary | None = None
    origin: Origin = Origin()
    report: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """What the version is called where the record was written."""
        return f"{self.name}@{self.number}"

    @property
    def enclosures(self) -> dict[str, str]:
        """Digests of the blobs that it names beside the manifest: the `base`'s facts and the `report`, where known."""
        named = {"base": None if self.base is None else self.base.facts, "report": self.report}
        return {role: digest for role, digest in named.items() if digest is not None}

    def as_json(self) -> dict[str, Any]:
        """The record as a JSON object. `kind` tells it from a manifest. Without sources it is as it always was."""
        fields = asdict(self)
        if not self.sources:
            del fields["sources"]
        return {"schema": SCHEMA, "kind": "version", **fields, "parents": list(fields["parents"])}


def record_bytes(record: VersionRecord) -> bytes:
    """The record as canonical JSON."""
    return canonical_json(record.as_json())


def parse_record(content: bytes) -> VersionRecord:
    """The record in some bytes; UsageError where they are none. Fields of a later minor version are passed over."""
    return record_of(parse_canonical(content, _WHAT))


def record_of(value: object) -> VersionRecord:
    """The record in a JSON value; UsageError where it is none."""
    needed = {"schema", "kind", "name", "number", "manifest", "parents", "base", "recipe"}
    document = expect_object(value, needed, _WHAT, more=True)
    check_schema(document, _WHAT)
    if document["kind"] != "version":
        refuse(_WHAT, f"is of kind {document['kind']!r}")
    _check(document)
    base, summary, origin = document["base"], document.get("summary"), document.get("origin")
    return VersionRecord(
        name=document["name"],
        number=document["number"],
        manifest=document["manifest"],
        parents=tuple(_parent(one) for one in document["parents"]),
        base=None if base is None else _base(base),
        recipe=document["recipe"],
        sequence=document.get("sequence", 0),
        summary=None if summary is None else _summary(summary),
        origin=Origin() if origin is None else _origin(origin),
        report=document.get("report"),
        sources=_sources(document.get("sources", {})),
    )


def _check(document: Mapping[str, Any]) -> None:
    name, recipe = document["name"], document["recipe"]
    if not isinstance(name, str) or str(parse_name(name)) != name:
        refuse(_WHAT, "name is no namespace/name")
    if not is_count(document["number"]) or document["number"] == 0:
        refuse(_WHAT, f"number is {document['number']!r}")
    if not is_count(document.get("sequence", 0)):
        refuse(_WHAT, f"sequence is {document['sequence']!r}")
    if not is_digest_text(document["manifest"]):
        refuse(_WHAT, "manifest is no digest")
    if not isinstance(document["parents"], list):
        refuse(_WHAT, "parents is no list")
    if document.get("report") is not None and not is_digest_text(document["report"]):
        refuse(_WHAT, "report is no digest")
    if recipe is not None and (
        not isinstance(recipe, dict)
        or not isinstance(recipe.get("method"), str)
        or not is_text(recipe["method"], 64)
        or not isinstance(recipe.get("body"), dict)
    ):
        refuse(_WHAT, "recipe is no object of method and body")


def _parent(row: object) -> ParentRecord:
    fields = expect_object(row, {"digest", "relation", "weight"}, _WHAT, more=True)
    weight = fields["weight"]
    if not is_digest_text(fields["digest"]) or fields["relation"] not in RELATIONS:
        refuse(_WHAT, "a parent has no digest or relation")
    if weight is not None and not is_number(weight):
        refuse(_WHAT, "a parent's weight is no finite number")
    if not is_text(fields.get("ref"), 256):
        refuse(_WHAT, "a parent's ref is no text")
    parent = ParentRecord(
        fields["digest"], fields["relation"], None if weight is None else float(weight), fields.get("ref")
    )
    if parent.ref is not None and parent.place is None:
        refuse(_WHAT, f"a parent's ref is {parent.ref[:120]!r}")
    return parent


def _base(row: object) -> BaseRecord:
    fields = expect_object(row, {"name", "fingerprint", "layout"}, _WHAT, more=True)
    if not is_text(fields["name"], _LONGEST_BASE):
        refuse(_WHAT, "base has a name that is no text")
    for key in ("fingerprint", "layout", "facts"):
        if fields.get(key) is not None and not is_digest_text(fields[key]):
            refuse(_WHAT, f"base has a {key} that is no digest")
    return BaseRecord(fields["name"], fields["fingerprint"], fields["layout"], fields.get("facts"))


def _summary(row: object) -> Summary:
    fields = expect_object(row, set(Summary.__dataclass_fields__), _WHAT, more=True)
    _check_texts(fields, _SUMMARY_TEXTS, "summary")
    counts = [fields[key] for key in _SUMMARY_COUNTS if fields[key] is not None]
    # rank and modules are 32 bits wide in PostgreSQL
    if not all(is_count(count) for count in counts) or max(fields["rank"] or 0, fields["modules"] or 0) >= 2**31:
        refuse(_WHAT, "summary has a count that is none")
    if fields["peft_type"] is None or fields["modules"] is None:
        refuse(_WHAT, "summary has no peft_type or modules")
    if fields["norm"] is not None and not is_number(fields["norm"]):
        refuse(_WHAT, "summary has a norm that is no number")
    if fields["tensors_digest"] is not None and not is_digest_text(fields["tensors_digest"]):
        refuse(_WHAT, "summary has a tensors_digest that is no digest")
    return _picked(Summary, fields)


def _origin(row: object) -> Origin:
    fields = expect_object(row, set(_ORIGIN_TEXTS), _WHAT, more=True)
    _check_texts(fields, _ORIGIN_TEXTS, "origin")
    for key in ("created_at", "deleted_at"):
        if fields[key] is not None and not _is_moment(fields[key]):
            refuse(_WHAT, f"{key} is no moment in UTC: {fields[key]!r}")
    return _picked(Origin, fields)


def _sources(row: object) -> dict[str, str]:
    fields = expect_object(row, set(), _WHAT, more=True)
    for name, source in fields.items():
        if len(name) > _LONGEST_FIELD or source is None or not is_text(source, _LONGEST_SOURCE):
            refuse(_WHAT, f"sources name no text for {name[:120]!r}")
    return fields


def _check_texts(fields: Mapping[str, Any], limits: Mapping[str, int], what: str) -> None:
    for key, longest in limits.items():
        if not is_text(fields[key], longest):
            refuse(_WHAT, f"{what} has a {key} that is no text of at most {longest} characters")


def _is_moment(text: str) -> bool:
    if not _MOMENT.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _picked(kind: type[_T], fields: Mapping[str, Any]) -> _T:
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]  # dataclasses
