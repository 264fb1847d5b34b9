"""The index of a bundle, as strict as what is written: nothing else in the archive is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.records.record import record_of
from registry.values.labeltexts import check_texts
from registry.values.refs import parse_alias
from registry.values.strictjson import (
    check_schema,
    expect_object,
    is_count,
    is_digest_text,
    is_number,
    parse_canonical,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.records.record import VersionRecord

_WHAT = "bundle"


@dataclass(frozen=True, slots=True)
class BundledVersion:
    """A version in a bundle, with its labels."""

    record: VersionRecord
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def ref(self) -> str:
        """What it was called where it comes from."""
        return self.record.ref


@dataclass(frozen=True, slots=True)
class Index:
    """What a bundle holds: versions, and sizes of blobs by digest in the order of the archive."""

    versions: tuple[BundledVersion, ...]
    blobs: Mapping[str, int]


def parse_index(content: bytes) -> Index:
    """The index in some bytes; UsageError for anything that an export would not have written."""
    document = expect_object(parse_canonical(content, _WHAT), {"schema", "kind", "versions", "blobs"}, _WHAT, more=True)
    check_schema(document, _WHAT)
    versions, blobs = document["versions"], document["blobs"]
    if document["kind"] != "bundle" or not isinstance(versions, list) or not isinstance(blobs, list):
        refuse(_WHAT, "is no index of versions and blobs")
    found = tuple(_version(one) for one in versions)
    if len({one.ref for one in found}) != len(found):
        refuse(_WHAT, "a version is there twice")
    return Index(found, _blobs(blobs))


def _blobs(rows: list[object]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for row in rows:
        fields = expect_object(row, {"digest", "size"}, _WHAT)
        if not is_digest_text(fields["digest"]) or not is_count(fields["size"]) or fields["size"] >= 1 << 62:
            refuse(_WHAT, "a blob has no digest or size")
        sizes[fields["digest"]] = fields["size"]
    if list(sizes) != sorted(sizes) or len(sizes) != len(rows):
        refuse(_WHAT, "blobs are not in order, or one is there twice")
    return sizes


def _version(row: object) -> BundledVersion:
    fields = expect_object(row, {"record", "aliases", "tags", "metrics"}, _WHAT, more=True)
    record, aliases = record_of(fields["record"]), fields["aliases"]
    if not isinstance(aliases, list) or not all(isinstance(one, str) for one in aliases):
        refuse(_WHAT, "aliases is no list of texts")
    tags, metrics = _pairs(fields["tags"], str), _pairs(fields["metrics"], (int, float))
    if not all(map(is_number, metrics.values())):
        refuse(_WHAT, "a metric is no number")
    check_texts(tags, metrics, record.origin.message)
    return BundledVersion(record, tuple(parse_alias(one) for one in aliases), tags, metrics)


def _pairs(value: object, kind: type | tuple[type, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(one, kind) for one in value.values()):
        refuse(_WHAT, "tags or metrics are no object of texts or numbers")
    return value
