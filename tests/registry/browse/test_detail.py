from __future__ import annotations

import pytest

from engine.compat.finding import Finding
from registry.browse.detail import show
from registry.errors import NotFoundError
from registry.records.draft import Parent, RecipeDraft
from registry.results import Edge, FileEntry
from registry.values.refs import parse_ref
from registry.versions.removal import remove
from tests.factories import digest, publish


def detail(database, version_id):
    with database.reading() as session:
        return show(session, version_id)


def test_the_facts_of_a_version(database):
    published = publish(
        database, tags={"k": "v"}, metrics={"m": 0.1}, aliases=("prod",), message="first", git_commit="abc"
    )

    found = detail(database, published.version_id)
    assert (found.ref, found.name, found.version) == ("team/sql@1", "team/sql", 1)
    assert (found.digest, found.tensors_digest) == (digest("manifest 1"), digest("tensors 1"))
    assert (found.base, found.peft_type, found.rank, found.size) == ("gpt2", "LORA", 8, 1200)
    assert (found.dtype, found.norm, found.message, found.pushed_by) == ("float32", 1.5, "first", "ada")
    assert (found.aliases, found.tags, found.metrics) == (("prod",), {"k": "v"}, {"m": 0.1})
    assert found.deleted_at is None


def test_files_are_those_that_were_pushed_without_manifest_and_record(database):
    published = publish(database)

    assert detail(database, published.version_id).files == (
        FileEntry("adapter_config.json", digest("config 1"), 200),
        FileEntry("adapter_model.safetensors", digest("weights 1"), 1000),
    )


def test_documents_come_parsed(database):
    documents = {"config": '{"r": 8, "x": null}', "modules": '[{"name": "a", "norm": 0.5}]', "report": '{"rank": 4}'}
    published = publish(database, documents=documents)

    found = detail(database, published.version_id)
    assert (found.config, found.modules, found.report) == (
        {"r": 8, "x": None},
        ({"name": "a", "norm": 0.5},),
        {"rank": 4},
    )


def test_what_was_never_stored_is_empty(database):
    published = publish(database, documents={}, base_name=None, rank=None)

    found = detail(database, published.version_id)
    assert (found.config, found.modules, found.report, found.recipe, found.findings) == ({}, (), None, None, ())
    assert (found.base, found.rank) == (None, None)


def test_the_recipe_of_a_derived_version(database):
    recipe = RecipeDraft("svd", {"rank": 4, "weights": [0.5, 0.5]})
    published = publish(database, recipe=recipe)

    assert detail(database, published.version_id).recipe == {
        "digest": recipe.digest,
        "method": "svd",
        "rank": 4,
        "weights": [0.5, 0.5],
    }


def test_findings_are_those_of_the_newest_rules(database):
    finding = Finding("zero-b", "warning", "B is zero", where="a")
    published = publish(database, findings=(finding,), ruleset="1")
    publish(database, findings=(), ruleset="2")

    assert detail(database, published.version_id).findings == ()
    publish(database, findings=(finding,), ruleset="3")
    assert detail(database, published.version_id).findings == (finding.as_json(),)


def test_lineage_is_one_step(database):
    parent = publish(database, "team/a", "a", base_name=None)
    edge = Parent(digest("manifest a"), "converted_from", version_id=parent.version_id)
    child = publish(database, "team/b", "b", parents=(edge,), base_name="gpt2")

    assert detail(database, child.version_id).lineage.edges == (
        Edge("team/b@1", "team/a@1", "converted_from"),
        Edge("team/b@1", "gpt2", "base"),
    )


def test_a_deleted_version_can_be_shown(database):
    published = publish(database)
    database.write(lambda session: remove(session, parse_ref("team/sql@1"), actor=None))

    assert detail(database, published.version_id).deleted_at is not None


def test_an_unknown_row_is_not_found(database):
    with pytest.raises(NotFoundError):
        detail(database, 7)
