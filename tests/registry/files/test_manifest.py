"""Manifests: one value, one sequence of bytes; nothing else is read."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.files.manifest import manifest_bytes, parse_manifest
from registry.results import FileEntry
from registry.values.digests import digest_of

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
FILES = (FileEntry("README.md", B, 7), FileEntry("adapter_config.json", A, 12))
BYTES = (
    b'{"schema":1,"files":['
    b'{"path":"README.md","sha256":"sha256:' + b"b" * 64 + b'","size":7},'
    b'{"path":"adapter_config.json","sha256":"sha256:' + b"a" * 64 + b'","size":12}]}'
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
