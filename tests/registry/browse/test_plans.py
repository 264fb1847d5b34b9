"""No query of the read side reads a whole table of versions or of what hangs on them, statistics or not."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, text

from registry.browse import listing
from registry.browse.detail import show
from registry.browse.filters import list_query
from registry.browse.lineage import lineage
from registry.browse.listing import list_versions
from registry.catalog.database import Database
from registry.catalog.joins import join_as_written
from registry.models import Adapter, LineageEdge, Metric, Tag, Version
from registry.values.refs import parse_ref
from registry.versions.resolve import resolve
from tests.factories import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

ADAPTERS, VERSIONS = 200, 5
# A table, or the name it goes by in the query of the page. Versions may be walked in the order of an index.
WHOLE = re.compile(
    r"(?:SCAN|Seq Scan on) (?:(?:versions|walked)\b(?! USING)|(?:tags|metrics|aliases|lineage|files|documents)\b)"
)


def fill(session: Session) -> None:
    """200 adapters x 5 versions, 3 tags each; half of the rows carry stage=prod, one in 200 its ticket."""
    rows = range(1, ADAPTERS * VERSIONS + 1)
    session.execute(
        insert(Adapter), [{"id": n, "namespace": f"t{n % 9}", "name": f"a{n}"} for n in range(1, ADAPTERS + 1)]
    )
    session.execute(insert(Version), [version(n) for n in rows])
    tags = [{"version_id": n, "key": "stage", "value": ("prod", "dev")[n % 2]} for n in rows]
    tags += [{"version_id": n, "key": "ticket", "value": f"t{n % ADAPTERS}"} for n in rows]
    tags += [{"version_id": n, "key": "seed", "value": str(n % 7)} for n in rows]
    session.execute(insert(Tag), tags)
    session.execute(insert(Metric), [{"version_id": n, "name": "loss", "value": n / 7} for n in rows])
    edges = [
        {"child_id": n, "parent_id": n - 1, "parent_digest": digest(n - 1), "relation": "finetuned_from"}
        for n in rows[1:]
    ]
    session.execute(insert(LineageEdge), edges)


def version(n: int) -> dict[str, Any]:
    adapter, number = (n - 1) % ADAPTERS + 1, (n - 1) // ADAPTERS + 1
    return {
        "id": n,
        "adapter_id": adapter,
        "number": number,
        "digest": digest(n),
        "newest": number == VERSIONS,
        "peft_type": "LORA",
        "rank": 4 << n % 4,
        "modules": 1,
        "size": n,
        "base_name": f"base-{adapter % 5}",
        "licence": ("mit", None, "gemma")[n % 3],
        "git_commit": f"{n:040x}",
        "run_id": f"run-{n}",
        "data_digest": f"d{n % 50}",
        "pushed_by": ("ann", "bob")[n % 2],
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A filled catalog of each kind, one for all tests here: they only read."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            file = tmp_path_factory.mktemp("plans") / "catalog.db"
            shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
            url = f"sqlite:///{file}"
        else:
            url = stack.enter_context(request.getfixturevalue("databases").catalog())
        database = Database(url)
        stack.callback(database.dispose)
        database.write(fill)
        yield database


@pytest.fixture
def plans(catalog: Database) -> Callable[[Callable[[Session], Any]], str]:
    """Runs something and gives back the plans of all its queries."""

    def explain(work: Callable[[Session], Any]) -> str:
        seen: list[tuple[str, Any]] = []
        with catalog.reading() as session:
            connection = session.connection()
            event.listen(connection, "before_cursor_execute", lambda *call: seen.append((call[2], call[3])))
            work(session)
            words = "EXPLAIN QUERY PLAN" if catalog.is_sqlite else "EXPLAIN"
            rows = [row for query, values in seen[:] for row in connection.exec_driver_sql(f"{words} {query}", values)]
        return "\n".join(str(row[-1]) for row in rows)

    return explain


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"tags": {"stage": "prod"}},
    {"tags": {"stage": "prod"}, "rank": "8..16", "base": "base-3"},
    {"tags": {"ticket": "t7"}, "rank": "8..16", "base": "base-3"},
    {"tags": {"ticket": "t7"}, "rank": "8..16", "base": "base-3", "all_versions": True},
    {"metrics": {"loss": "3..4"}},
    {"name": "t3/a1*"},
    {"name": "a1*"},
    {"alias": "prod"},
    {"check": "vllm=pass"},
    {"created": "7d"},
    {"licence": "mit"},
    {"licence": "none"},
    {"licence": "none", "tags": {"stage": "prod"}},
    {"git_commit": "00a7"},
    {"run_id": "run-7", "all_versions": True},
    {"data_digest": "d7"},
    {"pushed_by": "ann", "rank": "8..16"},
    {"sort": "created:desc"},
    {"sort": "size"},
    {"sort": "metric:loss", "tags": {"stage": "prod"}},
    {"all_versions": True},
)


@pytest.mark.parametrize("few", [2000, 0], ids=["driven", "walked"])
def test_list_pages_go_by_indexes(plans, monkeypatch, few):
    """The first and the second page of every filter, with few candidates and with many."""
    monkeypatch.setattr(listing, "FEW", few)
    for filters in FILTERS:

        def two_pages(session: Session, filters: dict[str, Any] = filters) -> None:
            first = list_versions(session, list_query(limit=5, **filters))
            if first:
                list_versions(session, list_query(limit=5, cursor=first[-1].cursor, **filters))

        found = plans(two_pages)
        assert not WHOLE.search(found), (filters, found)


@pytest.mark.parametrize(
    ("few", "filters", "index"),
    [
        (2000, {"base": "base-3", "rank": "8..16"}, "ix_versions_newest_base_name"),
        (2000, {"tags": {"ticket": "t7"}}, "ix_tags_key_value"),
        (2000, {"run_id": "run-7"}, "ix_versions_run_id"),
        (2000, {"git_commit": "00000000000000000000000000000000000003"}, "ix_versions_git_commit"),
        (2000, {"data_digest": "d7"}, "ix_versions_data_digest"),
        (2000, {"licence": "mit"}, "ix_versions_licence"),
        (2000, {"pushed_by": "ann"}, "ix_versions_pushed_by"),
        (0, {"tags": {"stage": "prod"}}, "uq_versions_newest"),
        (0, {"sort": "created"}, "ix_versions_newest_id"),
    ],
    ids=str,
)
def test_lists_of_newest_versions_read_the_indexes_made_for_them(plans, monkeypatch, few, filters, index):
    monkeypatch.setattr(listing, "FEW", few)

    assert index in plans(lambda session: list_versions(session, list_query(limit=5, **filters)))


def test_postgresql_looks_up_the_tags_of_all_candidates_at_once_and_sqlite_one_by_one(plans, catalog):
    half = {"tags": {"stage": "prod"}, "base": "base-3"}

    found = plans(lambda session: list_versions(session, list_query(limit=5, **half)))

    at_once = "hashed SubPlan" in found and re.search(r"Index Cond: .*version_id = ANY \(\(InitPlan", found) is not None
    assert at_once is not catalog.is_sqlite


def test_lineage_goes_by_indexes(plans):
    found = plans(lambda session: lineage(session, 900))

    assert not WHOLE.search(found), found
    assert "ix_lineage_parent_id" in found


def test_resolve_goes_by_indexes(plans):
    def work(session: Session) -> None:
        join_as_written(session)  # else PostgreSQL reads a table of a few pages whole, and rightly
        for ref in ("t3/a3", "t3/a3@2", f"t3/a3@{digest(3)[:30]}"):
            resolve(session, parse_ref(ref))

    found = plans(work)
    assert not WHOLE.search(found), found


def test_show_goes_by_indexes(plans):
    found = plans(lambda session: (join_as_written(session), show(session, 900)))

    assert not WHOLE.search(found), found


def test_a_query_without_an_index_is_noticed(plans):
    """The pattern above is able to fail."""
    assert WHOLE.search(plans(lambda session: session.execute(text("SELECT * FROM versions WHERE message = 'x'"))))
