from __future__ import annotations

import pytest
from sqlalchemy import select

from registry.errors import UsageError
from registry.models import AuditEntry, Metric, Tag
from registry.values.labeltexts import check_metrics, check_tags
from registry.values.refs import parse_ref
from registry.versions.labels import remove_tags, set_metrics, set_tags
from registry.versions.resolve import resolve
from tests.factories import publish


@pytest.fixture
def one(database):
    """team/sql with version 1."""
    publish(database)
    return database


def change(database, action, *arguments):
    return database.write(
        lambda session: action(session, resolve(session, parse_ref("team/sql@1")), *arguments, actor="ada")
    )


def stored(database, table, key):
    with database.reading() as session:
        return {getattr(row, key): row.value for row in session.scalars(select(table))}


def test_tags_are_added_and_replaced(one):
    change(one, set_tags, {"task": "sql", "lang": "en"})
    change(one, set_tags, {"task": "code", "note": ""})

    assert stored(one, Tag, "key") == {"task": "code", "lang": "en", "note": ""}


def test_removing_tags_tells_which_were_there(one):
    change(one, set_tags, {"a": "1", "b": "2", "c": "3"})

    assert change(one, remove_tags, ["c", "a", "zzz"]) == ("a", "c")
    assert stored(one, Tag, "key") == {"b": "2"}
    assert change(one, remove_tags, ["zzz"]) == ()


def test_metrics_are_added_and_replaced(one):
    change(one, set_metrics, {"loss": 1.5, "accuracy": 0.1})
    change(one, set_metrics, {"loss": 5e-324})

    assert stored(one, Metric, "name") == {"loss": 5e-324, "accuracy": 0.1}


def test_each_change_is_in_the_audit_log_and_no_change_is_not(one):
    change(one, set_tags, {"a": "1"})
    change(one, set_tags, {})
    change(one, remove_tags, ["zzz"])

    with one.reading() as session:
        entries = session.execute(select(AuditEntry.action, AuditEntry.subject, AuditEntry.detail)).all()
    assert [tuple(entry) for entry in entries if entry.action != "push"] == [
        ("tag", "team/sql@1", '{"set": {"a": "1"}}')
    ]


@pytest.mark.parametrize("key", ["", " ", "a b", "a=b", "-rf", ".hidden", "é", "a\x00", "a\n", "x" * 97])
def test_a_key_that_a_shell_or_a_table_would_garble_is_refused(key):
    with pytest.raises(UsageError, match="tag"):
        check_tags({key: "x"})
    with pytest.raises(UsageError, match="metric"):
        check_metrics({key: 1.0})


@pytest.mark.parametrize("key", ["a", "Task", "eval/acc@1", "rouge-L", "x" * 96, "k8s.io/app:1+2"])
def test_keys_that_people_use_are_taken(key):
    check_tags({key: "any text: = , é 中"})
    check_metrics({key: -0.0})


@pytest.mark.parametrize("value", ["a\x00b", "\x1b[31m", "two\nlines", "\x7f", "\x9b", "\u2028", "\ud800", "x" * 513])
def test_values_with_control_characters_or_too_long_are_refused(value):
    with pytest.raises(UsageError, match="tag k"):
        check_tags({"k": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_are_finite(value):
    with pytest.raises(UsageError, match="expected a finite number"):
        check_metrics({"loss": value})
