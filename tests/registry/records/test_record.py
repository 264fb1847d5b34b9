"""Records: one value, one sequence of bytes; older and later ones read, and nothing that lies does."""

import json
from dataclasses import replace

import pytest

from registry.errors import UsageError
from registry.files.manifest import parse_manifest
from registry.records.record import BaseRecord, Origin, ParentRecord, Summary, VersionRecord, parse_record, record_bytes
from registry.values.refs import Name
from registry.values.strictjson import canonical_json

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
C = "sha256:" + "c" * 64
MANIFEST_BYTES = b'{"schema":1,"files":[]}'
# as release 0.1 wrote them
OLD_RECORD = VersionRecord(
    name="team/ab",
    number=3,
    manifest=A,
    parents=(ParentRecord(B, "merged_from", 0.5), ParentRecord(A, "finetuned_from")),
    base=BaseRecord("gpt2", None, B),
    recipe={"method": "svd", "body": {"rank": 8}},
)
OLD_BYTES = (
    b'{"base":{"fingerprint":null,"layout":"sha256:' + b"b" * 64 + b'","name":"gpt2"},"kind":"version",'
    b'"manifest":"sha256:' + b"a" * 64 + b'","name":"team/ab","number":3,"parents":['
    b'{"digest":"sha256:' + b"b" * 64 + b'","relation":"merged_from","weight":0.5},'
    b'{"digest":"sha256:' + b"a" * 64 + b'","relation":"finetuned_from","weight":null}],'
    b'"recipe":{"body":{"rank":8},"method":"svd"},"schema":1}'
)
RECORD = VersionRecord(
    name="team/ab",
    number=3,
    manifest=A,
    parents=(ParentRecord(B, "merged_from", 0.5, "team/a@12"),),
    base=BaseRecord("gpt2", B, C, A),
    recipe=None,
    sequence=2,
    summary=Summary("LORA", 14, B, 16, 9, "float32", 1.5),
    origin=Origin("2026-03-04T05:06:07Z", None, "first", "ada", "c0ffee", "run-1", "d", "mit"),
    report=C,
)
BYTES = (
    b'{"base":{"facts":"sha256:' + b"a" * 64 + b'","fingerprint":"sha256:' + b"b" * 64 + b'",'
    b'"layout":"sha256:' + b"c" * 64 + b'","name":"gpt2"},"kind":"version",'
    b'"manifest":"sha256:' + b"a" * 64 + b'","name":"team/ab","number":3,'
    b'"origin":{"created_at":"2026-03-04T05:06:07Z","data_digest":"d","deleted_at":null,"git_commit":"c0ffee",'
    b'"licence":"mit","message":"first","pushed_by":"ada","run_id":"run-1"},'
    b'"parents":[{"digest":"sha256:' + b"b" * 64 + b'","ref":"team/a@12","relation":"merged_from","weight":0.5}],'
    b'"recipe":null,"report":"sha256:' + b"c" * 64 + b'","schema":1,"sequence":2,'
    b'"summary":{"dtype":"float32","modules":14,"norm":1.5,"parameters":9,"peft_type":"LORA","rank":16,'
    b'"tensors_digest":"sha256:' + b"b" * 64 + b'"}}'
)


def test_sources_stand_at_its_end_where_there_are_any():
    """So a record without them is what earlier releases wrote, byte for byte."""
    told = replace(RECORD, sources={"licence": "README.md", "run_id": "flag"})
    content = BYTES.replace(
        b'"schema":1,"sequence":2,', b'"schema":1,"sequence":2,"sources":{"licence":"README.md","run_id":"flag"},'
    )

    assert record_bytes(told) == content
    assert parse_record(content) == told


@pytest.mark.parametrize("sources", [None, [], "flag", {"licence": None}, {"licence": 1}, {"l" * 65: "flag"}])
def test_sources_that_are_none_are_refused(sources):
    with pytest.raises(UsageError):
        parse_record(canonical_json({**json.loads(BYTES), "sources": sources}))


def test_a_record_is_these_bytes():
    assert record_bytes(RECORD) == BYTES


def test_a_record_reads_back():
    assert parse_record(BYTES) == RECORD


def test_a_record_of_the_first_release_reads():
    assert parse_record(OLD_BYTES) == OLD_RECORD


def test_a_record_of_a_later_minor_version_reads():
    assert parse_record(BYTES.replace(b'"schema":1', b'"rules":"x","schema":1')) == RECORD


def test_a_parent_is_a_name_and_a_number():
    assert RECORD.parents[0].place == (Name("team", "a"), 12)


LIES = [
    (b'"schema":1', b'"schema":2'),
    (b'"kind":"version"', b'"kind":"other"'),
    (b'"number":3', b'"number":0'),
    (b'"number":3', b'"number":"3"'),
    (b'"number":3', b'"number":9223372036854775808'),
    (b'"name":"team/ab"', b'"name":3'),
    (b'"name":"team/ab"', b'"name":"ab"'),
    (b'"name":"team/ab"', b'"name":"Team/ab"'),
    (b'"name":"team/ab"', b'"name":"../ab"'),
    (b'"name":"team/ab"', b'"name":"team/a/b"'),
    (b'"name":"team/ab"', b'"name":"team/ab","name":"team/ab"'),
    (b'"name":"team/ab"', b'"name": "team/ab"'),
    (b'"manifest":"sha256:a', b'"manifest":"sha256:A'),
    (b'"manifest":"sha256:a', b'"manifest":"../../a'),
    (b'"weight":0.5', b'"weight":NaN'),
    (b'"weight":0.5', b'"weight":1e999'),
    (b'"weight":0.5', b'"weight":"half"'),
    (b'"weight":0.5', b'"weight":true'),
    (b'"relation":"merged_from"', b'"relation":null'),
    (b'"relation":"merged_from"', b'"relation":"stolen_from"'),
    (b'"ref":"team/a@12"', b'"ref":"team/a@0"'),
    (b'"ref":"team/a@12"', b'"ref":"../a@1"'),
    (b'"ref":"team/a@12"', b'"ref":7'),
    (b'"recipe":null', b'"recipe":[]'),
    (b'"recipe":null', b'"recipe":{"body":1,"method":"svd"}'),
    (b'"name":"gpt2"', b'"name":2'),
    (b'"facts":"sha256:a', b'"facts":"sha256:A'),
    (b'"sequence":2', b'"sequence":-1'),
    (b'"sequence":2', b'"sequence":2.0'),
    (b'"report":"sha256:c', b'"report":"sha256:C'),
    (b'"rank":16', b'"rank":2147483648'),
    (b'"rank":16', b'"rank":true'),
    (b'"norm":1.5', b'"norm":"big"'),
    (b'"peft_type":"LORA"', b'"peft_type":null'),
    (b'"peft_type":"LORA"', b'"peft_type":"' + b"x" * 65 + b'"'),
    (b'"message":"first"', b'"message":"a\\u0000b"'),
    (b'"message":"first"', b'"message":"' + b"x" * 4097 + b'"'),
    (b'"message":"first"', b'"message":"\\ud800"'),
    (b"2026-03-04T05", b"2026-13-04T05"),
    (b"2026-03-04T05:06:07Z", b"yesterday"),
]


@pytest.mark.parametrize(("old", "new"), LIES, ids=[new[:60].decode() for _, new in LIES])
def test_a_record_that_lies_is_refused(old, new):
    assert old in BYTES
    with pytest.raises(UsageError):
        parse_record(BYTES.replace(old, new, 1))


def test_a_manifest_is_no_record_and_a_record_no_manifest():
    with pytest.raises(UsageError):
        parse_record(MANIFEST_BYTES)
    with pytest.raises(UsageError):
        parse_manifest(BYTES)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b'{"kind":"version"}', b"\xff"])
def test_what_is_no_record_is_refused(content):
    with pytest.raises(UsageError, match="record"):
        parse_record(content)


def test_a_weight_that_is_not_finite_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        record_bytes(VersionRecord("a/b", 1, A, (ParentRecord(B, "merged_from", float("nan")),)))


def test_a_record_starts_with_its_base_so_that_others_are_passed_over_early():
    assert BYTES.startswith(b'{"base":')
    assert canonical_json(json.loads(BYTES)) == BYTES
