from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from engine.format.facts import BaseFacts
from registry.basemodels import bases
from registry.browse import listing
from registry.browse.filters import list_query
from registry.browse.listing import list_versions
from registry.errors import UsageError
from registry.models import CheckResult, Version
from registry.values.refs import parse_ref
from registry.versions import labels
from registry.versions.removal import remove
from tests.factories import digest, publish, publish_in

if TYPE_CHECKING:
    from registry.catalog.database import Database
    from registry.results import VersionInfo


def page(database: Database, **filters: Any) -> list[VersionInfo]:
    with database.reading() as session:
        return list_versions(session, list_query(**filters))


def refs(database: Database, **filters: Any) -> list[str]:
    return [row.ref for row in page(database, **filters)]


def pages(database: Database, limit: int, **filters: Any) -> list[str]:
    """All rows, fetched page by page."""
    found, cursor = [], None
    while rows := page(database, limit=limit, cursor=cursor, **filters):
        found += [row.ref for row in rows]
        cursor = rows[-1].cursor
    return found


def test_an_empty_catalog_lists_nothing(database):
    assert page(database) == []


def test_a_row_tells_what_the_contract_promises(database):
    publish(
        database,
        "team/sql",
        base_name="gpt2",
        tags={"b": "2", "a": "1"},
        metrics={"acc": 0.1},
        aliases=("prod", "beta"),
    )

    (row,) = page(database)

    assert (row.ref, row.name, row.version, row.digest) == ("team/sql@1", "team/sql", 1, digest("manifest 1"))
    assert (row.base, row.peft_type, row.rank, row.size) == ("gpt2", "LORA", 8, 1200)
    assert (row.aliases, row.tags, row.metrics) == (("beta", "prod"), {"a": "1", "b": "2"}, {"acc": 0.1})
    assert abs(datetime.now(UTC) - row.created_at) < timedelta(minutes=10)


def test_only_the_newest_version_of_each_adapter_is_listed(database):
    for seed in (1, 2, 3):
        publish(database, "team/sql", seed)
    publish(database, "team/other", 1)

    assert refs(database) == ["team/other@1", "team/sql@3"]
    assert refs(database, all_versions=True) == ["team/other@1", "team/sql@1", "team/sql@2", "team/sql@3"]


def test_deleted_versions_never_appear_and_the_one_before_is_newest_again(database):
    for seed in (1, 2):
        publish(database, "team/sql", seed)
    database.write(lambda session: remove(session, parse_ref("team/sql@2"), actor=None))

    assert refs(database) == refs(database, all_versions=True) == ["team/sql@1"]


def test_names_are_in_byte_order_on_both_databases(database):
    """A linguistic collation would pass over the dash and the underscore."""
    for name in ("a/b-c", "a/bb", "a/b_a", "a/b.z", "a-z/a"):
        publish(database, name)

    assert refs(database) == ["a/b-c@1", "a/b.z@1", "a/b_a@1", "a/bb@1", "a-z/a@1"]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("team/sql", ["team/sql@1"]),
        ("team/*", ["team/sql@1", "team/sql-a_b@1", "team/sqlxaxb@1"]),
        ("*/sql", ["other/sql@1", "team/sql@1"]),
        ("SQL", ["other/sql@1", "team/sql@1"]),
        ("sql*b", ["team/sql-a_b@1", "team/sqlxaxb@1"]),
        ("team/sql?a_b", ["team/sql-a_b@1"]),  # an underscore is itself, not a wildcard of LIKE
        ("*xb", ["team/sqlxaxb@1"]),
        ("t*/s*", ["team/sql@1", "team/sql-a_b@1", "team/sqlxaxb@1"]),
        ("te", []),
    ],
)
def test_name_patterns(database, glob, found):
    for name in ("team/sql", "team/sql-a_b", "team/sqlxaxb", "other/sql"):
        publish(database, name)

    assert refs(database, name=glob) == found


def test_a_pattern_also_chooses_among_all_versions(database):
    publish(database, "team/sql", 1)
    publish(database, "team/sql", 2)
    publish(database, "team/b", 1)

    assert refs(database, name="s*", all_versions=True) == ["team/sql@1", "team/sql@2"]


def test_rank_bounds_are_inclusive_and_leave_out_versions_without_rank(database):
    for rank in (4, 8, 16, None):
        publish(database, f"team/r{rank}".lower(), rank=rank)

    assert refs(database, rank="4..8") == ["team/r4@1", "team/r8@1"]
    assert refs(database, rank="8..") == ["team/r16@1", "team/r8@1"]
    assert refs(database, rank=(None, 4)) == ["team/r4@1"]
    assert refs(database, rank="16") == ["team/r16@1"]


def test_size_and_type(database):
    publish(database, "team/a")
    publish(database, "team/b", peft_type="LOHA")

    assert refs(database, size="1.2KB") == ["team/a@1", "team/b@1"]
    assert refs(database, size="1201..") == []
    assert refs(database, peft_type="loha") == ["team/b@1"]


def test_every_tag_must_hold(database):
    publish(database, "team/a", tags={"task": "sql", "lang": "en"})
    publish(database, "team/b", tags={"task": "sql", "lang": "de"})
    publish(database, "team/c", tags={"lang": "en"})

    assert refs(database, tags={"task": "sql"}) == ["team/a@1", "team/b@1"]
    assert refs(database, tags={"task": "sql", "lang": "en"}) == ["team/a@1"]
    assert refs(database, tags={"task": "SQL"}) == []


def test_a_tag_of_an_older_version_does_not_count_for_the_newest(database):
    publish(database, "team/a", 1, tags={"stage": "old"})
    publish(database, "team/a", 2)

    assert refs(database, tags={"stage": "old"}) == []
    assert refs(database, tags={"stage": "old"}, all_versions=True) == ["team/a@1"]


def test_metric_bounds(database):
    for name, value in (("a", 0.1), ("b", 0.30000000000000004), ("c", -2.0)):
        publish(database, f"team/{name}", metrics={"loss": value})
    publish(database, "team/d")

    assert refs(database, metrics={"loss": "0.1..0.3"}) == ["team/a@1"]
    assert refs(database, metrics={"loss": "..0"}) == ["team/c@1"]
    assert refs(database, metrics={"loss": (0.30000000000000004, None)}) == ["team/b@1"]


def test_alias(database):
    publish(database, "team/a", 1, aliases=("prod",))
    publish(database, "team/a", 2)
    publish(database, "team/b", 1, aliases=("prod",))

    assert refs(database, alias="prod") == ["team/b@1"]
    assert refs(database, alias="PROD", all_versions=True) == ["team/a@1", "team/b@1"]


def test_the_newest_check_result_of_a_target_counts(database):
    for name in ("a", "b"):
        publish(database, f"team/{name}")

    def judge(session):
        for version_id, ruleset, status in ((1, "1", "fail"), (1, "2", "pass"), (2, "1", "pass"), (2, "2", "fail")):
            session.add(
                CheckResult(version_id=version_id, target="vllm", ruleset=ruleset, status=status, findings="[]")
            )
            session.flush()

    database.write(judge)

    assert refs(database, check="vllm=pass") == ["team/a@1"]
    assert refs(database, check={"vllm": "fail"}) == ["team/b@1"]
    assert refs(database, check="checkin=pass") == ["team/a@1", "team/b@1"]


def test_a_base_is_found_by_any_of_its_names_and_by_equal_spelling_where_it_was_unknown(database):
    publish(database, "team/before", base_name="org/llama")
    known = BaseFacts(layout=digest("layout"), parameters={}, fingerprint=digest("llama"))
    database.write(lambda session: bases.add(session, known, ["org/llama", "llama"]))
    with database.reading() as session:
        base_id = bases.get(session, "llama").id
    publish(database, "team/after", base_name="llama", base_id=base_id)
    publish(database, "team/other", base_name="org/llama-2")

    expected = ["team/after@1", "team/before@1"]
    assert (
        refs(database, base="llama")
        == refs(database, base="org/llama")
        == refs(database, base=digest("llama"))
        == expected
    )
    assert refs(database, base="org/llama-2") == ["team/other@1"]
    assert refs(database, base="llama", rank="9..") == refs(database, base="nothing") == []


def test_a_known_base_without_a_spelling_shows_its_first_name(database):
    known = BaseFacts(layout=digest("layout"), parameters={}, fingerprint=digest("llama"))
    database.write(lambda session: bases.add(session, known, ["org/llama", "llama"]))
    publish(database, base_name=None, base_id=1)

    assert page(database)[0].base == "org/llama"


def age(database: Database, **days: float) -> None:
    """Move the creation of `team/NAME` so many days into the past, a whole second as the database writes it."""

    def change(session):
        for n, ago in enumerate(days.values(), start=1):
            now = session.execute(text("SELECT CURRENT_TIMESTAMP")).scalar_one()
            now = now if isinstance(now, datetime) else datetime.fromisoformat(now)
            session.get_one(Version, n).created_at = now.replace(tzinfo=UTC, microsecond=0) - timedelta(days=ago)

    for name in days:
        publish(database, f"team/{name}")
    database.write(change)


def test_created_within_a_duration_of_the_databases_now(database):
    age(database, new=1, week=6.9, month=29)

    assert refs(database, created="7d") == refs(database, created="7d..") == ["team/new@1", "team/week@1"]
    assert refs(database, created="30d..7d") == ["team/month@1"]
    assert refs(database, created="999999999d") == ["team/month@1", "team/new@1", "team/week@1"]


def test_created_days_are_whole_and_bounds_inclusive(database):
    publish(database, "team/a")
    publish(database, "team/b")
    # The text that SQLite's own clock writes has no fraction; both bounds meet it exactly.
    database.write(
        lambda session: session.execute(text("UPDATE versions SET created_at = '2026-02-01 00:00:00' WHERE id = 1"))
    )
    database.write(
        lambda session: session.execute(text("UPDATE versions SET created_at = '2026-02-02 00:00:00' WHERE id = 2"))
    )

    assert refs(database, created="2026-02-01") == ["team/a@1"]
    assert refs(database, created="2026-02-01..2026-02-02") == ["team/a@1", "team/b@1"]
    assert refs(database, created="2026-02-02T00:00:00Z..") == ["team/b@1"]
    assert refs(database, created="..2026-02-01T00:00:00Z") == ["team/a@1"]


@pytest.fixture(params=["few", "many"])
def plan(request, monkeypatch):
    """Every query is answered twice: driven by candidates, and by a walk (as in a large catalog)."""
    if request.param == "many":
        monkeypatch.setattr(listing, "FEW", 0)


def sample(database: Database) -> list[dict[str, Any]]:
    """30 versions of 12 adapters with repeated and missing values, as plain rows."""
    chance = random.Random(7)
    rows: list[dict[str, Any]] = []

    def fill(session):
        rows.clear()
        for n in range(30):
            name = f"n{chance.randrange(3)}/a{chance.randrange(4)}"
            number = 1 + sum(row["name"] == name for row in rows)
            row = {
                "name": name,
                "number": number,
                "rank": chance.choice([None, 4, 8, 16]),
                "tags": {"half": chance.choice(["y", "n"])},
                "metrics": chance.choice([{}, {"m": chance.choice([-1.5, 0.1, 0.1 + 2**-40])}]),
                "base_name": chance.choice(["x", "y"]),
            }
            rows.append({"id": n, "ref": f"{name}@{number}", "size": 1200, **row})
            fields = {key: value for key, value in row.items() if key not in ("name", "number")}
            publish_in(session, name, n, **fields)

    database.write(fill)
    for row in rows:
        row["newest"] = row["number"] == max(other["number"] for other in rows if other["name"] == row["name"])
    return rows


KEYS = {
    "name": lambda row: (*row["name"].split("/"), row["number"]),
    "created": lambda row: row["id"],
    "size": lambda row: (row["size"], row["id"]),
    "rank": lambda row: (-1 if row["rank"] is None else row["rank"], row["id"]),
    "version": lambda row: (row["number"], row["id"]),
    "metric:m": lambda row: (row["metrics"].get("m", 0), row["id"]),
}


def test_pages_of_every_order_hold_every_row_once(database, plan):
    """Against Python's own filter and sort, with and without filters, in pages of 7 rows."""
    rows = sample(database)
    for sort, key in KEYS.items():
        for descending in (False, True):
            for all_versions in (False, True):
                for tags in ({}, {"half": "y"}):
                    expected = sorted(
                        (
                            row
                            for row in rows
                            if (all_versions or row["newest"])
                            and tags.items() <= row["tags"].items()
                            and (not sort.startswith("metric") or row["metrics"])
                        ),
                        key=key,
                        reverse=descending,
                    )
                    filters = {"sort": sort + ":desc" * descending, "all_versions": all_versions, "tags": tags}
                    assert pages(database, 7, **filters) == [row["ref"] for row in expected], filters


def test_filters_together_are_a_conjunction_on_either_plan(database, plan):
    rows = sample(database)

    expected = [
        row["ref"]
        for row in sorted(rows, key=KEYS["name"])
        if row["base_name"] == "x" and row["rank"] in (4, 8) and row["tags"]["half"] == "y"
    ]
    assert expected
    assert refs(database, all_versions=True, base="x", rank="4..8", tags={"half": "y"}) == expected


def test_a_page_is_walked_where_that_is_less_work_than_fetching_all_candidates(database, monkeypatch):
    """60 adapters, 50 for x and 10 for y. Take four steps of a walk to be as much work as one candidate.

    A page of 20 x ends after about 2 * 20 * 60 / 50 = 48 steps, a page of one y after 12, all others at the end.
    """
    monkeypatch.setattr(listing, "_SPARE", 5)
    monkeypatch.setattr(listing, "_STEPS", dict.fromkeys(listing._STEPS, 4))
    chosen = []
    page_of = listing._page
    monkeypatch.setattr(listing, "_page", lambda shape, driver: chosen.append(driver) or page_of(shape, driver))

    def fill(session):
        for n in range(60):
            publish_in(session, f"team/a{n:02}", n, base_name="x" if n % 6 else "y")

    database.write(fill)

    for base, limit in (("x", 20), ("x", 5000), ("x", 0), ("y", 1), ("y", 20), ("y", 0)):
        expected = [f"team/a{n:02}@1" for n in range(60) if bool(n % 6) == (base == "x")]
        assert refs(database, base=base, limit=limit) == expected[: limit or None]
    assert chosen == [None, None, None, None, 0, 0]


def test_limit_zero_is_all_and_a_hundred_is_the_default(database):
    def fill(session):
        for n in range(103):
            publish_in(session, f"team/a{n:03}", n)

    database.write(fill)

    assert len(page(database)) == 100
    assert len(page(database, limit=0)) == 103


def test_a_page_takes_no_query_per_row(database):
    def fill(session):
        for n in range(40):
            publish_in(session, f"team/a{n}", n, tags={"k": "v"}, metrics={"m": 1.0}, aliases=("prod",))

    database.write(fill)

    def count(limit: int) -> int:
        statements = []
        with database.reading() as session:
            event.listen(session.connection(), "before_cursor_execute", lambda *seen: statements.append(seen[2]))
            assert len(list_versions(session, list_query(limit=limit, tags={"k": "v"}))) == limit
        return len(statements)

    assert count(2) == count(40) <= 6


def test_rows_that_are_there_throughout_are_neither_skipped_nor_repeated(database):
    """New adapters and new versions arrive between the pages; a deleted one was already seen."""
    for name in ("b", "d", "f", "h"):
        publish(database, f"team/{name}")
    first = page(database, limit=2)
    publish(database, "team/a")
    publish(database, "team/d", 2)
    publish(database, "team/e")
    database.write(lambda session: remove(session, parse_ref("team/b@1"), actor=None))
    second = page(database, limit=3, cursor=first[-1].cursor)

    assert [row.ref for row in first] == ["team/b@1", "team/d@1"]
    assert [row.ref for row in second] == ["team/e@1", "team/f@1", "team/h@1"]


def test_a_cursor_of_other_filters_is_refused(database):
    publish(database)
    cursor = page(database)[0].cursor

    for other in ({"tags": {"a": "b"}}, {"sort": "name:desc"}, {"all_versions": True}, {"sort": "size"}):
        with pytest.raises(UsageError, match="other filters"):
            page(database, cursor=cursor, **other)
    assert page(database, cursor=cursor, limit=5) == []


def test_queries_that_differ_in_values_alone_share_their_statements(database):
    """Making a statement takes longer than running it."""
    publish(database, base_name="x", tags={"a": "1", "b": "2"}, metrics={"m": 1.0})

    def misses(**filters) -> int:
        before = listing._page.cache_info().misses + listing._counts.cache_info().misses
        assert len(page(database, **filters)) == 1
        return listing._page.cache_info().misses + listing._counts.cache_info().misses - before

    misses(tags={"a": "1"}, rank="4..8", metrics={"m": "..2"}, base="x", name="s*", created="7d", limit=5)
    again = {"tags": {"b": "2"}, "rank": "8..16", "metrics": {"m": "..1"}, "base": "x", "name": "sq*"}
    assert misses(**again, created="8d", limit=9) == 0
    assert misses(**again, created="8d", limit=0) == 2


def test_labels_come_for_more_versions_than_a_statement_has_room_for(database):
    """SQLite takes 32,766 parameters, PostgreSQL 65,535."""

    def fill(session):
        for n in range(5):
            publish_in(session, f"team/a{n}", n, tags={"n": str(n)})

    database.write(fill)

    with database.reading() as session:
        tags = listing.labels_of(session, range(1, 70_001)).tags
    assert [tags[n] for n in range(1, 7)] == [{"n": str(n)} for n in range(5)] + [{}]


def test_metrics_come_back_to_the_last_bit(database):
    publish(database)
    version = 0.1 + 0.2
    database.write(lambda session: labels.set_metrics(session, session.get_one(Version, 1), {"m": version}, actor=None))

    assert page(database)[0].metrics == {"m": 0.30000000000000004}


def test_a_query_is_a_value():
    query = list_query(rank="1..2", sort="size:desc")

    assert dataclasses.replace(query) == query == list_query(rank=(1, 2), sort="size:desc")


@pytest.mark.parametrize("word", ["latest", "LATEST"])
def test_the_alias_latest_is_built_in(database: Database, word: str) -> None:
    """It names the newest version of each adapter, which is what a list shows, whatever else is asked for."""
    for name, seed in (("team/a", 1), ("team/a", 2), ("team/b", 3)):
        publish(database, name, seed)

    assert refs(database, alias=word) == ["team/a@2", "team/b@1"]
    assert refs(database, alias=word, all_versions=True) == ["team/a@2", "team/b@1"]


class TestOrigin:
    """Filters by where versions come from, on both databases."""

    @pytest.fixture
    def origins(self, database):
        said = {
            "a": {"licence": "mit", "git_commit": "8c0f1d2e" * 5, "run_id": "r-1", "actor": "ann"},
            "b": {"licence": "gemma", "git_commit": "8c0fffff" * 5, "data_digest": "d-1", "actor": "bob"},
            "c": {"git_commit": "deadbeef" * 5, "run_id": "r-1", "data_digest": "d-1", "actor": "ann"},
        }
        for seed, (name, fields) in enumerate(said.items()):
            publish(database, f"team/{name}", seed, **fields)
        return database

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            ({"licence": "MIT"}, "a"),
            ({"licence": "none"}, "c"),
            ({"licence": "apache-2.0"}, ""),
            ({"git_commit": "8c0f"}, "ab"),
            ({"git_commit": "8C0F1"}, "a"),
            ({"git_commit": "deadbeef" * 5}, "c"),
            ({"run_id": "r-1"}, "ac"),
            ({"run_id": "r"}, ""),
            ({"data_digest": "d-1"}, "bc"),
            ({"pushed_by": "ann"}, "ac"),
            ({"pushed_by": "ann", "data_digest": "d-1"}, "c"),
            ({"licence": "gemma", "git_commit": "8c0f", "all_versions": True}, "b"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("few", [2000, 0], ids=["driven", "walked"])
    def test_each_filter(self, origins, monkeypatch, few, filters, names):
        monkeypatch.setattr(listing, "FEW", few)
        with origins.reading() as session:
            found = list_versions(session, list_query(**filters))

        assert [row.name for row in found] == [f"team/{name}" for name in names]

    @pytest.mark.parametrize("filters", [{"git_commit": "8c"}, {"git_commit": "main"}, {"licence": ""}], ids=str)
    def test_what_cannot_match_is_refused(self, filters):
        with pytest.raises(UsageError, match=next(iter(filters)).replace("_", " ")):
            list_query(**filters)
