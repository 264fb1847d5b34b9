from __future__ import annotations

import pytest

from registry.errors import ConflictError, NotFoundError
from registry.refs import parse_ref
from registry.resolve import resolve
from tests.factories import digest, publish


def number(database, text, **options):
    with database.reading() as session:
        return resolve(session, parse_ref(text), **options).number


def test_a_number_names_that_version(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql@1") == 1
    assert number(database, "team/sql@v2") == 2


def test_latest_and_a_bare_name_mean_the_highest_number(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql") == 2
    assert number(database, "team/sql@latest") == 2


def test_an_alias_names_its_version(database):
    publish(database, seed="a", aliases=("prod",))
    publish(database, seed="b")

    assert number(database, "team/sql@prod") == 1


def test_twelve_hex_digits_of_a_digest_are_enough(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql@" + digest("manifest a")[:19]) == 1
