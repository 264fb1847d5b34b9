"""Which records of a store count: read from a folder of blobs alone, no catalog beside it."""

import os

import pytest

from registry.files.manifest import manifest_bytes
from registry.records.record import Origin, ParentRecord, Summary, VersionRecord, record_bytes
from registry.records.recordscan import LARGEST, scan_records
from registry.results import FileEntry
from registry.store.folder import FolderStore
from registry.values.progress import silent

SUMMARY = Summary("LORA", 2)


@pytest.fixture
def store(tmp_path):
    found = FolderStore(tmp_path / "blobs", tmp_path / "staging")
    found.prepare()
    return found


def manifest(store, text, *more):
    """The digest of a manifest whose content is its own, with the blobs `more` among its files."""
    files = [FileEntry("adapter_config.json", store.put_bytes(text.encode()), len(text))]
    files += [FileEntry(f"x{place}.json", digest, size) for place, (digest, size) in enumerate(more)]
    return store.put_bytes(manifest_bytes(files))


def record(store, name, number, digest, *, age=0, **fields):
    """The digest of a planted record that the store got `age` seconds ago."""
    content = record_bytes(VersionRecord(name, number, digest, summary=SUMMARY, **fields))
    planted = store.put_bytes(content)
    moment = 1_700_000_000 - age
    os.utime(store.path(planted), (moment, moment))
    return planted


def kept(scan):
    return [(one.best.record.name, one.best.record.number, one.best.record.manifest) for one in scan.versions]


def told(scan):
    return [(one.id, one.severity, one.subject) for one in scan.findings]


def test_an_empty_store_tells_nothing(store):
    scan = scan_records(store, silent)

    assert (scan.versions, scan.highest, scan.blobs, scan.findings) == ([], {}, {}, [])


def test_of_one_version_the_highest_sequence_counts_and_all_are_kept(store):
    one = manifest(store, "one")
    digests = [
        record(store, "team/a", 1, one, sequence=n, age=age, parents=(ParentRecord(one, "finetuned_from", n),))
        for n, age in ((0, 0), (2, 99), (1, 0))
    ]

    (found,) = scan_records(store, silent).versions

    assert (found.best.digest, found.best.record.parents[0].weight) == (digests[1], 2)
    assert [each.digest for each in found.records] == [digests[1], digests[2], digests[0]]


def test_of_two_contents_of_one_number_the_one_without_another_number_counts(store):
    one, two = manifest(store, "one"), manifest(store, "two")
    record(store, "team/a", 1, one, age=50)
    rival = record(store, "team/a", 1, two)
    record(store, "team/a", 2, two)

    scan = scan_records(store, silent)

    assert kept(scan) == [("team/a", 1, one), ("team/a", 2, two)]
    assert told(scan) == [("rival-record", "warning", rival)]


def test_of_two_contents_that_are_nowhere_else_the_later_written_counts(store):
    one, two = manifest(store, "one"), manifest(store, "two")
    rival = record(store, "team/a", 1, one, age=50)
    record(store, "team/a", 1, two)

    scan = scan_records(store, silent)

    assert (kept(scan), told(scan)) == ([("team/a", 1, two)], [("rival-record", "warning", rival)])


def test_a_higher_sequence_was_committed_and_beats_a_rival(store):
    """A second record is only written for a version that is there."""
    one, two = manifest(store, "one"), manifest(store, "two")
    record(store, "team/a", 1, two, sequence=1, age=50)
    record(store, "team/a", 2, two)
    rival = record(store, "team/a", 1, one)

    scan = scan_records(store, silent)

    assert ("team/a", 1, two) in kept(scan)
    assert ("rival-record", "warning", rival) in told(scan)


def test_one_content_has_one_number_per_name(store):
    one = manifest(store, "one")
    record(store, "team/a", 1, one)
    second = record(store, "team/a", 2, one)
    record(store, "team/b", 2, one)

    scan = scan_records(store, silent)

    assert kept(scan) == [("team/a", 1, one), ("team/b", 2, one)]
    assert told(scan) == [("same-content", "warning", second)]
    assert scan.highest == {"team/a": 2, "team/b": 2}


def test_a_record_that_a_version_holds_as_a_file_is_not_followed(store):
    one = manifest(store, "one")
    lie = record(store, "team/prod", 9, one)
    record(store, "team/b", 1, manifest(store, "two", (lie, store.size(lie))))

    scan = scan_records(store, silent)

    assert [name for name, _, _ in kept(scan)] == ["team/b"]
    assert told(scan) == [("record-as-file", "warning", lie)]
    assert scan.highest == {"team/b": 1}


def test_a_record_cannot_be_silenced_by_one_that_is_itself_only_a_file(store):
    """Somebody pushed a record whose manifest lists a true record as its file."""
    one = manifest(store, "one")
    true = record(store, "team/a", 1, one)
    lie = record(store, "team/x", 1, manifest(store, "two", (true, store.size(true))))
    record(store, "team/b", 1, manifest(store, "three", (lie, store.size(lie))))

    scan = scan_records(store, silent)

    assert sorted(name for name, _, _ in kept(scan)) == ["team/a", "team/b"]
    assert told(scan) == [("record-as-file", "warning", lie)]


def test_a_blob_above_the_bound_is_not_read(store):
    content = record_bytes(
        VersionRecord("team/a", 1, manifest(store, "one"), recipe={"method": "x", "body": {"k": "x" * LARGEST}})
    )
    store.put_bytes(content)

    scan = scan_records(store, silent)

    assert (scan.versions, scan.findings) == ([], [])


def test_a_lost_manifest_is_named_and_its_number_stays_taken(store):
    missing = "sha256:" + "5" * 64
    record(store, "team/a", 5, missing)

    scan = scan_records(store, silent)

    assert told(scan) == [("lost-manifest", "error", missing)]
    assert [(one.files, one.manifest_size) for one in scan.versions] == [(None, 0)]
    assert scan.highest == {"team/a": 5}


def test_a_manifest_that_is_none_is_named(store):
    other = store.put_bytes(b'{"schema":1}')
    record(store, "team/a", 1, other)

    assert told(scan_records(store, silent)) == [("lost-manifest", "error", other)]


def test_wrong_bytes_are_named_and_not_parsed(store):
    digest = record(store, "team/a", 1, manifest(store, "one"))
    path = store.path(digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"team/a", b"team/b"))

    scan = scan_records(store, silent)

    assert (kept(scan), told(scan)) == ([], [("wrong-bytes", "error", digest)])


def test_versions_come_in_the_order_they_were_made(store):
    moments = {"team/c": "2026-01-01T00:00:00Z", "team/a": "2026-01-03T00:00:00Z", "team/b": "2026-01-02T00:00:00Z"}
    for name, moment in moments.items():
        record(store, name, 1, manifest(store, name), origin=Origin(created_at=moment))

    assert [name for name, _, _ in kept(scan_records(store, silent))] == ["team/c", "team/b", "team/a"]


def test_within_one_second_the_store_tells_the_order(store):
    """SQLite's clock steps by seconds; a number says nothing about another adapter's."""
    made = Origin(created_at="2026-01-01T00:00:00Z")
    for age, name in enumerate(("team/a", "team/c", "team/b")):
        record(store, name, 1 + age, manifest(store, name), origin=made, age=age / 100)

    assert [name for name, _, _ in kept(scan_records(store, silent))] == ["team/b", "team/c", "team/a"]


def test_versions_of_one_adapter_stay_in_order_of_number_whatever_the_clocks_did(store):
    moments = {1: ("2026-01-03T00:00:00Z", 0), 2: ("2026-01-01T00:00:00Z", 5), 3: ("2026-01-01T00:00:00Z", 9)}
    for number, (moment, age) in moments.items():
        origin = Origin(created_at=moment)
        record(store, "team/a", number, manifest(store, str(number)), origin=origin, age=age)
    record(store, "team/b", 1, manifest(store, "b"), origin=Origin(created_at="2026-01-02T00:00:00Z"))

    found = [(name, number) for name, number, _ in kept(scan_records(store, silent))]
    assert found == [("team/b", 1), ("team/a", 1), ("team/a", 2), ("team/a", 3)]


def test_a_moment_with_a_fraction_comes_after_the_whole_second(store):
    for name, moment in (("team/a", "2026-01-01T00:00:00.500000Z"), ("team/b", "2026-01-01T00:00:00Z")):
        record(store, name, 1, manifest(store, name), origin=Origin(created_at=moment))

    assert [name for name, _, _ in kept(scan_records(store, silent))] == ["team/b", "team/a"]


def test_enclosures_that_the_store_lacks_are_not_promised(store):
    report = store.put_bytes(b"whatever")
    record(store, "team/a", 1, manifest(store, "one"), report=report)
    record(store, "team/b", 1, manifest(store, "two"), report="sha256:" + "6" * 64)

    assert [dict(one.enclosed) for one in scan_records(store, silent).versions] == [{report: 8}, {}]
