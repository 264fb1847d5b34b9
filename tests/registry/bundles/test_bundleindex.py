"""The index of a bundle: read as strictly as it is written, labels and sizes included."""

import pytest

from registry.bundles.bundleindex import parse_index
from registry.errors import UsageError
from registry.records.record import Summary, VersionRecord
from registry.values.strictjson import canonical_json

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
RECORD = VersionRecord("team/a", 3, A, summary=Summary("LORA", 2)).as_json()
VERSION = {"record": RECORD, "aliases": ["prod"], "tags": {"k": "v"}, "metrics": {"m": 0.5, "n": 2}}
INDEX = {
    "schema": 1,
    "kind": "bundle",
    "versions": [VERSION],
    "blobs": [{"digest": A, "size": 7}, {"digest": B, "size": 0}],
}


def test_an_index_is_versions_with_labels_and_sizes_in_order():
    found = parse_index(canonical_json(INDEX))

    assert [(one.ref, one.aliases, dict(one.tags), dict(one.metrics)) for one in found.versions] == [
        ("team/a@3", ("prod",), {"k": "v"}, {"m": 0.5, "n": 2})
    ]
    assert list(found.blobs.items()) == [(A, 7), (B, 0)]


def test_an_empty_bundle_is_one():
    found = parse_index(canonical_json(INDEX | {"versions": [], "blobs": []}))

    assert (found.versions, dict(found.blobs)) == ((), {})


def test_fields_of_a_later_minor_version_are_passed_over():
    more = canonical_json(INDEX | {"more": 1, "versions": [VERSION | {"more": 1}]})

    assert parse_index(more) == parse_index(canonical_json(INDEX))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": "1"},
        {"kind": "version"},
        {"versions": {}},
        {"versions": [VERSION, VERSION]},
        {"versions": [None]},
        {"blobs": {}},
        {"blobs": [{"digest": B, "size": 0}, {"digest": A, "size": 7}]},
        {"blobs": [{"digest": A, "size": 7}, {"digest": A, "size": 7}]},
        {"blobs": [{"digest": A}]},
        {"blobs": [{"digest": A, "size": 7, "path": "/etc/passwd"}]},
        {"blobs": [{"digest": "../../etc/passwd", "size": 7}]},
        {"blobs": [{"digest": A.upper(), "size": 7}]},
        {"blobs": [{"digest": A, "size": -1}]},
        {"blobs": [{"digest": A, "size": 1.0}]},
        {"blobs": [{"digest": A, "size": 1 << 62}]},
        {"blobs": [{"digest": A, "size": True}]},
    ],
    ids=lambda change: str(change)[:70],
)
def test_an_index_that_lies_is_refused(change):
    with pytest.raises(UsageError, match="bundle"):
        parse_index(canonical_json(INDEX | change))


@pytest.mark.parametrize(
    "change",
    [
        {"record": RECORD | {"number": 0}},
        {"record": RECORD | {"name": "../a"}},
        {"record": RECORD | {"manifest": "x"}},
        {"aliases": "prod"},
        {"aliases": [1]},
        {"aliases": ["latest"]},
        {"aliases": ["v7"]},
        {"aliases": ["../x"]},
        {"tags": []},
        {"tags": {"k": 1}},
        {"tags": {"k": "a\0b"}},
        {"tags": {"": "v"}},
        {"metrics": {"m": "1"}},
        {"metrics": {"m": True}},
        {"metrics": {"m": None}},
    ],
    ids=lambda change: str(change)[:70],
)
def test_a_version_that_lies_is_refused(change):
    with pytest.raises(UsageError):
        parse_index(canonical_json(INDEX | {"versions": [VERSION | change]}))


@pytest.mark.parametrize("missing", ["record", "aliases", "tags", "metrics"])
def test_a_version_lacks_nothing(missing):
    version = {key: value for key, value in VERSION.items() if key != missing}

    with pytest.raises(UsageError, match="bundle"):
        parse_index(canonical_json(INDEX | {"versions": [version]}))
