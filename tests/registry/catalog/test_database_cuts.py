"""The connection to PostgreSQL breaks at any message of a push: done, refused, or unknown and said so; never twice."""

import pytest
import sqlalchemy

from registry.errors import NotFoundError, UnavailableError
from tests.registries import make_adapter, open_registry
from tests.registry.wire import wire

LONG = [pytest.mark.slow, pytest.mark.timeout(3600)]


def push(home, url, source, name):
    registry = open_registry(home, url)
    try:
        return registry.push(source, name, aliases=["prod"])
    finally:
        registry.close()


def messages_of_a_push(home, url, folder):
    """Of a later push: the first one into a database says more."""
    push(home, url, make_adapter(folder / "first", 0), "team/first")
    source = make_adapter(folder / "whole", 1)
    with wire(url) as (whole, through):
        push(home, through, source, "team/whole")
    return whole.messages


def is_there(home, url, name):
    registry = open_registry(home, url)
    try:
        return registry.get(name).version == 1
    except NotFoundError:
        return False
    finally:
        registry.close()


@pytest.mark.parametrize("answered", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("step", [6, pytest.param(1, marks=LONG)])
def test_a_push_whose_connection_breaks_at_any_message(postgres_url, tmp_path, answered, step):
    home = tmp_path / "home"
    count = messages_of_a_push(home, postgres_url, tmp_path)
    broke = unknown = 0
    for at in range(1 + answered, count + 1, step):
        name, source = f"team/cut-{at}", make_adapter(tmp_path / f"source{at}", at + 10)
        with wire(postgres_url, breaks_at=at, answered=answered) as (through, url):
            try:
                done = push(home, url, source, name)
            except UnavailableError as error:
                there = is_there(home, postgres_url, name)
                told = "is unknown" in str(error)
                assert told or not there, (at, error)
                assert not told or "run the same command again" in str(error.hint)
                unknown += told
            else:
                assert done.version == 1
                there = True
            broke += through.broke
        again = push(home, postgres_url, source, name)
        assert (again.version, again.created) == (1, not there), at
    assert broke >= 0.85 * (count // step)  # a push may end some messages earlier than the one counted
    assert count > 20
    assert unknown >= 1 or step > 1
    print(f"{count} messages, {broke} breaks, {unknown} unknown")
    registry = open_registry(home, postgres_url)
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    registry.close()


def test_a_server_that_restarts_between_two_calls_is_found_again(postgres_url, tmp_path):
    """All its connections end at once, as in a restart; the next read and the next push make new ones."""
    registry = open_registry(tmp_path / "home", postgres_url)
    registry.push(make_adapter(tmp_path / "one", 1), "team/sql")
    end_all(postgres_url)
    assert registry.get("team/sql").version == 1
    end_all(postgres_url)
    assert registry.push(make_adapter(tmp_path / "two", 2), "team/sql").version == 2
    registry.close()


def end_all(url):
    other = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with other.connect() as connection:
        ended = connection.exec_driver_sql(f"SELECT count(pg_terminate_backend(pid)) {others}").scalar_one()
    other.dispose()
    assert ended > 0
