"""Manifests and records: one value, one sequence of bytes; nothing else is read."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import digest_of
from registry.errors import UsageError
from registry.manifest import (
    BaseRecord,
    ParentRecord,
    VersionRecord,
    manifest_bytes,
    parse_manifest,
    parse_record,
    record_bytes,
)
from registry.results import FileEntry

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
FILES = (FileEntry("README.md", B, 7), FileEntry("adapter_config.json", A, 12))
BYTES = (
    b'{"schema":1,"files":['
    b'{"path":"README.md","sha256":"sha256:' + b"b" * 64 + b'","size":7},'
    b'{"path":"adapter_config.json","sha256":"sha256:' + b"a" * 64 + b'","size":12}]}'
)
RECORD = VersionRecord(
    name="team/ab",
    number=3,
    manifest=A,
    parents=(ParentRecord(B, "merged_from", 0.5), ParentRecord(A, "finetuned_from")),
    base=BaseRecord("gpt2", None, B),
    recipe={"method": "svd", "rank": 8},
)
RECORD_BYTES = (
    b'{"base":{"fingerprint":null,"layout":"sha256:' + b"b" * 64 + b'","name":"gpt2"},"kind":"version",'
    b'"manifest":"sha256:' + b"a" * 64 + b'","name":"team/ab","number":3,"parents":['
    b'{"digest":"sha256:' + b"b" * 64 + b'","relation":"merged_from","weight":0.5},'
    b'{"digest":"sha256:' + b"a" * 64 + b'","relation":"finetuned_from","weight":null}],'
    b'"recipe":{"method":"svd","rank":8},"schema":1}'
)


def test_a_manifest_is_these_bytes():
    assert manifest_bytes(FILES) == BYTES


def test_the_order_of_files_does_not_matter():
    assert manifest_bytes(reversed(FILES)) == BYTES


def test_the_digest_of_a_version_is_the_sha256_of_the_manifest():
    assert digest_of(manifest_bytes(FILES)) == "sha256:" + hashlib.sha256(BYTES).hexdigest()


def test_a_manifest_reads_back():
    assert parse_manifest(BYTES) == FILES


def test_a_name_outside_ascii_is_itself_in_utf8():
    assert '"path":"é/日本.txt"'.encode() in manifest_bytes([FileEntry("é/日本.txt", A, 0)])


def test_paths_sort_by_code_point():
    """U+10000 sorts after U+FFFD by code point, and before it in UTF-16."""
    content = manifest_bytes([FileEntry("\U00010000", A, 0), FileEntry("\ufffd", B, 0)])

    assert [entry.path for entry in parse_manifest(content)] == ["\ufffd", "\U00010000"]


PATHS = st.lists(st.from_regex(r"[a-z0-9_-]{1,8}(/[a-z0-9_-]{1,8}){0,2}", fullmatch=True), unique=True, max_size=5)


@given(PATHS, st.integers(0, 2**63 - 1))
def test_what_is_written_is_read_back(paths, size):
    files = [FileEntry(path, A, size) for path in paths]
    try:
        content = manifest_bytes(files)
    except UsageError as error:
        assert "side by side" in str(error)
        return

    assert list(parse_manifest(content)) == sorted(files, key=lambda entry: entry.path)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../b",
        "./a",
        "a//b",
        "a/./b",
        "a\0b",
        "a\\b",
        "C:x",
        "a\nb",
        "\u202egnp",
        "",
        "aux.txt",
        "a.",
    ],
)
def test_a_path_that_could_leave_the_folder_or_mislead_is_neither_written_nor_read(path):
    with pytest.raises(UsageError):
        manifest_bytes([FileEntry(path, A, 1)])
    row = {"path": path, "sha256": A, "size": 1}
    with pytest.raises(UsageError):
        parse_manifest(json.dumps({"schema": 1, "files": [row]}, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"schema":1', b'"schema":2'),
        (b'"schema":1', b'"schema":true'),
        (b'"schema":1', b'"schema": 1'),
        (b'"schema":1,', b""),
        (b'"schema":1,', b'"schema":1,"more":0,'),
        (b'"size":7', b'"size":7.0'),
        (b'"size":7', b'"size":-7'),
        (b'"size":7', b'"size":true'),
        (b'"size":7', b'"size":"7"'),
        (b'"size":7', b'"size":9223372036854775808'),
        (b'"size":7', b'"size":NaN'),
        (b'"size":7', b'"size":7,"size":7'),
        (b'"size":7', b'"size":7,"mode":420'),
        (b"sha256:bbb", b"sha256:BBB"),
        (b"sha256:bbb", b"sha256:bb"),
        (b"README.md", b"z"),
        (b"README.md", b"Adapter_Config.json"),
        (b"README.md", b"adapter_config.json"),
        (b"README.md", b"README\\u002emd"),
        (b"README.md", b"README\xff"),
        (b"README.md", b"\\ud800"),
        (b'"README.md"', b"1"),
    ],
)
def test_a_manifest_that_is_not_canonical_is_refused(old, new):
    assert old in BYTES
    with pytest.raises(UsageError, match="manifest"):
        parse_manifest(BYTES.replace(old, new, 1))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b'{"schema":1,"files":{}}', b'{"schema":1,"files":[1]}', b"[" * 100_000]
)
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(UsageError, match="manifest"):
        parse_manifest(content)


def test_a_file_cannot_lie_where_a_folder_must():
    with pytest.raises(UsageError, match="side by side"):
        manifest_bytes([FileEntry("a", A, 0), FileEntry("a/b", B, 0)])


def test_a_record_is_these_bytes():
    assert record_bytes(RECORD) == RECORD_BYTES


def test_a_record_reads_back():
    assert parse_record(RECORD_BYTES) == RECORD


def test_a_record_of_a_later_minor_version_reads():
    assert parse_record(RECORD_BYTES.replace(b'"schema":1', b'"message":"x","schema":1')) == RECORD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"schema":1', b'"schema":2'),
        (b'"kind":"version"', b'"kind":"other"'),
        (b'"number":3', b'"number":0'),
        (b'"number":3', b'"number":"3"'),
        (b'"name":"team/ab"', b'"name":3'),
        (b'"manifest":"sha256:a', b'"manifest":"sha256:A'),
        (b'"weight":0.5', b'"weight":NaN'),
        (b'"weight":0.5', b'"weight":1e999'),
        (b'"weight":0.5', b'"weight":"half"'),
        (b'"weight":0.5', b'"weight":true'),
        (b'"relation":"merged_from"', b'"relation":null'),
        (b'"recipe":{', b'"recipe":[],"x":{'),
        (b'"name":"gpt2"', b'"name":2'),
    ],
)
def test_a_record_that_lies_is_refused(old, new):
    assert old in RECORD_BYTES
    with pytest.raises(UsageError, match="record"):
        parse_record(RECORD_BYTES.replace(old, new, 1))


def test_a_manifest_is_no_record_and_a_record_no_manifest():
    with pytest.raises(UsageError):
        parse_record(BYTES)
    with pytest.raises(UsageError):
        parse_manifest(RECORD_BYTES)


def test_a_weight_that_is_not_finite_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        record_bytes(VersionRecord("a/b", 1, A, (ParentRecord(B, "merged_from", float("nan")),)))
