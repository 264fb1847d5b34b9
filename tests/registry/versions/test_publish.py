from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from engine.compat.finding import Finding
from registry.catalog import leases
from registry.errors import BusyError, ConflictError, UsageError
from registry.models import (
    Adapter,
    Alias,
    AliasMove,
    AuditEntry,
    Blob,
    CheckResult,
    Document,
    File,
    Lease,
    LineageEdge,
    Metric,
    Recipe,
    Tag,
    Version,
)
from registry.records.draft import Parent, RecipeDraft
from registry.values.refs import parse_ref
from registry.versions.publish import Published, record
from registry.versions.removal import remove
from tests.factories import digest, keep_record, make_draft, publish


def rows(database, *columns, order=None):
    with database.reading() as session:
        query = select(*columns).order_by(order if order is not None else columns[0])
        return [tuple(row) for row in session.execute(query)]


def test_the_first_push_makes_version_1(database):
    assert publish(database) == Published(version_id=1, number=1, created=True, newest=1, restored=False)


def test_numbers_count_per_adapter(database):
    answers = [publish(database, name, seed) for name, seed in [("team/a", 1), ("team/b", 1), ("team/a", 2)]]

    assert [(answer.number, answer.created) for answer in answers] == [(1, True), (1, True), (2, True)]


def test_a_version_keeps_every_fact_of_its_draft(database):
    publish(database, message="first", git_commit="c0ffee", run_id="r-1", data_digest="d", licence="mit")

    with database.reading() as session:
        version = session.scalars(select(Version)).one()
    assert (version.digest, version.tensors_digest) == (digest("manifest 1"), digest("tensors 1"))
    assert (version.peft_type, version.rank, version.modules, version.parameters) == ("LORA", 8, 2, 4096)
    assert (version.dtype, version.norm, version.size, version.base_name) == ("float32", 1.5, 1200, "gpt2")
    assert (version.message, version.pushed_by) == ("first", "ada")
    assert (version.git_commit, version.run_id, version.data_digest, version.licence) == ("c0ffee", "r-1", "d", "mit")
    assert version.created_at.utcoffset() == timedelta(0)


def test_every_file_manifest_and_record_has_a_live_blob(database):
    publish(database)

    files = rows(database, File.path, File.role, File.blob_digest == File.sha256, File.size)
    assert files[1:] == [
        ("/record", "record", True, files[1][3]),
        ("adapter_config.json", "file", True, 200),
        ("adapter_model.safetensors", "file", True, 1000),
    ]
    assert files[0] == ("/manifest", "manifest", True, 300)
    assert {state for (state,) in rows(database, Blob.state)} == {"live"}
    assert len(rows(database, Blob.digest)) == 4


def test_a_blob_that_two_versions_share_is_one_row(database):
    publish(database, "team/a")
    publish(database, "team/b")

    # config, weights and manifest are shared; each version has its own record
    assert len(rows(database, Blob.digest)) == 5


def test_the_record_says_what_the_catalog_can_be_rebuilt_from(database):
    kept = []

    def keep(content):
        kept.append(content)
        return keep_record(content)

    draft = make_draft(
        parents=(Parent(digest("p"), "merged_from", 0.25),), recipe=RecipeDraft("svd", {"rank": 8, "seed": 0})
    )
    database.write(lambda session: record(session, draft, write_record=keep))

    (content,) = kept
    said = json.loads(content)
    assert (said["name"], said["number"], said["manifest"]) == ("team/sql", 1, digest("manifest 1"))
    assert said["parents"] == [{"digest": digest("p"), "relation": "merged_from", "weight": 0.25, "ref": None}]
    assert said["base"] == {"name": "gpt2", "fingerprint": None, "layout": None, "facts": None}
    assert said["recipe"] == {"method": "svd", "body": {"rank": 8, "seed": 0}}
    expected = "sha256:" + hashlib.sha256(content).hexdigest()
    assert rows(database, Version.record_digest) == [(expected,)]


def test_everything_given_is_stored_beside_the_version(database):
    publish(
        database,
        tags={"task": "sql", "lang": "en"},
        metrics={"accuracy": 0.5},
        aliases=("prod",),
        recipe=RecipeDraft("svd", {"b": 1, "a": [0.5]}),
        findings=(Finding("zero-b", "warning", "all zero"),),
        ruleset="7",
    )

    assert rows(database, Tag.key, Tag.value) == [("lang", "en"), ("task", "sql")]
    assert rows(database, Metric.name, Metric.value) == [("accuracy", 0.5)]
    assert rows(database, Alias.name, Alias.version_id) == [("prod", 1)]
    assert rows(database, Document.kind, Document.body) == [("config", '{"r":8}'), ("modules", "[]")]
    body = '{"a":[0.5],"b":1}'
    assert rows(database, Recipe.method, Recipe.body, Recipe.digest) == [
        ("svd", body, "sha256:" + hashlib.sha256(body.encode()).hexdigest())
    ]
    ((target, ruleset, status, findings),) = rows(
        database, CheckResult.target, CheckResult.ruleset, CheckResult.status, CheckResult.findings
    )
    assert (target, ruleset, status) == ("checkin", "7", "warn")
    assert [(one["rule"], one["severity"]) for one in json.loads(findings)] == [("zero-b", "warning")]


def test_a_push_leaves_a_line_in_the_audit_log(database):
    publish(database)

    ((action, subject, actor, detail),) = rows(
        database, AuditEntry.action, AuditEntry.subject, AuditEntry.actor, AuditEntry.detail
    )
    assert (action, subject, actor) == ("push", "team/sql@1", "ada")
    assert json.loads(detail) == {"created": True, "restored": False, "digest": digest("manifest 1")}


# The same content again


def test_the_same_content_is_the_same_version_also_an_older_one(database):
    publish(database, seed="a")
    publish(database, seed="b")

    again = publish(database, seed="a")

    assert (again.number, again.created, again.newest) == (1, False, 2)
    assert publish(database, seed="c").number == 3


def test_a_push_of_the_same_content_adds_what_is_new(database):
    parent = publish(database, "team/parent", "p")
    publish(database, tags={"task": "sql", "lang": "en"}, aliases=("test",), message="first")

    publish(
        database,
        tags={"task": "code"},
        metrics={"loss": 1.25},
        aliases=("prod",),
        parents=(Parent(digest("manifest p"), "finetuned_from", None, parent.version_id),),
        message="second",
        findings=(Finding("zero-b", "error", "all zero"),),
    )

    mine = parent.version_id + 1
    assert rows(database, Tag.key, Tag.value) == [("lang", "en"), ("task", "code")]
    assert rows(database, Metric.name, Metric.value) == [("loss", 1.25)]
    assert rows(database, Alias.name, Alias.version_id) == [("prod", mine), ("test", mine)]
    assert rows(database, LineageEdge.parent_id, LineageEdge.relation) == [(parent.version_id, "finetuned_from")]
    assert rows(database, Version.message, order=Version.id) == [(None,), ("first",)]
    assert (mine, "fail") in rows(database, CheckResult.version_id, CheckResult.status)


def test_pushing_twice_adds_an_edge_and_an_alias_move_once(database):
    for _ in range(2):
        publish(database, parents=(Parent(digest("p"), "merged_from", 1.0),), aliases=("prod",))

    assert len(rows(database, LineageEdge.id)) == 1
    assert len(rows(database, AliasMove.id)) == 1


def test_a_parent_given_twice_is_one_edge_with_both_weights(database):
    publish(database, parents=(Parent(digest("p"), "merged_from", 0.25), Parent(digest("p"), "merged_from", 0.5)))

    assert rows(database, LineageEdge.parent_digest, LineageEdge.weight) == [(digest("p"), 0.75)]


def test_pushing_deleted_content_brings_the_version_back(database):
    publish(database, seed="a")
    publish(database, seed="b")
    database.write(lambda session: remove(session, parse_ref("team/sql@2"), actor=None))
    assert rows(database, Version.number, Version.newest) == [(1, True), (2, False)]

    again = publish(database, seed="b")

    assert (again.number, again.created, again.newest, again.restored) == (2, False, 2, True)
    assert rows(database, Version.number, Version.newest) == [(1, False), (2, True)]


def test_pushing_content_that_gc_freed_restores_its_blobs(database):
    publish(database, seed="a")
    database.write(lambda session: remove(session, parse_ref("team/sql@1"), actor=None))
    database.write(free_everything)

    again = publish(database, seed="a")

    assert (again.number, again.created, again.restored) == (1, False, True)
    assert all(digest for (digest,) in rows(database, File.blob_digest, order=File.path))
    # config, weights, manifest, the record and the one that says it is back
    assert len(rows(database, Blob.digest)) == 5
    assert rows(database, Version.deleted_at, Version.freed_at) == [(None, None)]


def free_everything(session):
    """What gc does to a version deleted long ago."""
    session.execute(update(File).values(blob_digest=None))
    session.execute(update(Version).values(freed_at=Version.deleted_at))
    session.execute(Blob.__table__.delete())


def test_a_number_is_never_given_twice_even_after_a_deletion(database):
    publish(database, seed="a")
    publish(database, seed="b")
    for number in (1, 2):
        ref = parse_ref(f"team/sql@{number}")
        database.write(lambda session, ref=ref: remove(session, ref, actor=None))

    assert publish(database, seed="c").number == 3


# All or nothing


def test_a_failure_after_the_number_was_taken_leaves_nothing(database):
    def fail(content):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        database.write(lambda session: record(session, make_draft(), write_record=fail))
    for table in (Adapter, Version, Blob, AuditEntry):
        assert rows(database, table.__table__.primary_key.columns[0]) == []
    assert publish(database).number == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tags": {"bad key": "x"}}, "tag 'bad key'"),
        ({"tags": {"k": "line\nbreak"}}, "control characters"),
        ({"metrics": {"loss": float("nan")}}, "finite"),
        ({"message": "x" * 4097}, "at most 4096"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(database, fields, message):
    with pytest.raises(UsageError, match=message):
        publish(database, **fields)
    assert rows(database, Adapter.id) == []


# Leases


def test_publishing_ends_the_lease(database):
    lease = database.write(lambda session: leases.acquire(session, [digest("weights 1")], timedelta(hours=1)))

    publish(database, lease=lease)

    assert rows(database, Lease.id) == []


@pytest.mark.parametrize("ttl", [timedelta(0), None])
def test_a_push_whose_lease_ran_out_is_refused(database, ttl):
    """Its blobs may be gone: gc spares only what an unexpired lease names."""
    lease = "0" * 32
    if ttl is not None:
        lease = database.write(lambda session: leases.acquire(session, [digest("weights 1")], ttl))

    with pytest.raises(ConflictError, match="ran out"):
        publish(database, lease=lease)
    assert rows(database, Version.id) == []


def test_a_blob_that_gc_is_deleting_is_not_published(database, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    database.write(lambda session: session.add(Blob(digest=digest("weights 1"), size=1000, state="deleting")))

    with pytest.raises(BusyError, match="is being deleted by gc"):
        publish(database)
    assert rows(database, Version.id) == []


def test_a_condemned_blob_is_brought_back_by_a_publish(database):
    database.write(lambda session: session.add(Blob(digest=digest("weights 1"), size=1000, state="condemned")))

    publish(database)

    assert {state for (state,) in rows(database, Blob.state)} == {"live"}
