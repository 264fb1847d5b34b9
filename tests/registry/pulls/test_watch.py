"""watch: every state it settles on is announced once, pulled before; nothing short of the end stops it.

Time is a list of what happens during each pause: no test sleeps.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from registry.errors import CorruptError, NotFoundError, SchemaError, UnavailableError, UsageError
from registry.pulls.watch import Watch, WatchPlan
from tests.registries import make_adapter, open_registry

ROOT = Path(__file__).parents[3]


def push_three(registry, tmp_path):
    """team/sql with three versions, prod at the first."""
    for seed in (1, 2, 3):
        registry.push(make_adapter(tmp_path / str(seed), seed), "team/sql")
    registry.set_alias("team/sql@1", "prod")


@pytest.fixture
def each(prepared):
    """It on each database."""
    return prepared(push_three)


@pytest.fixture
def team(states, tmp_path):
    """It on SQLite alone, for what asks no other question of a database."""
    states.bring(push_three, tmp_path, "sqlite:")
    opened = open_registry(tmp_path / "home")
    yield opened
    opened.close()


class Clock:
    """Runs one action a pause, and raises Stop after the last; `now` moves by what was paused."""

    class Stop(BaseException):
        pass

    def __init__(self, *actions):
        self.actions, self.now, self.pauses = list(actions), 0.0, []

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
        self.pauses.append(seconds)
        if not self.actions:
            raise self.Stop
        self.actions.pop(0)()


def nothing():
    """Nobody does anything."""


def follow(registry, clock, ref="team/sql@prod", notice=None, **plan):
    """The events until the clock's actions are over."""
    told = [] if notice is None else notice
    watch = Watch(
        registry._handle,
        registry._handle.ref(ref),
        WatchPlan(**plan),
        notice=told.append,
        pause=clock.pause,
        clock=clock,
    )
    found = []
    with suppress(Clock.Stop):
        for event in watch:
            found.append(event)  # noqa: PERF402 (what came before the stop is kept)
    return found, watch


def short(events):
    return [(event.event, event.ref) for event in events]


def test_the_first_event_is_what_it_names_now(team):
    (event,), _ = follow(team, Clock(nothing, nothing))
    version = team.get("team/sql@1")

    assert (event.event, event.watched, event.ref, event.version) == ("current", "team/sql@prod", "team/sql@1", 1)
    assert (event.digest, event.previous_digest) == (version.digest, None)
    assert (event.path / "adapter_config.json").is_file()


def test_each_move_is_an_event_with_the_digest_before(each):
    clock = Clock(
        nothing, lambda: each.set_alias("team/sql@3", "prod"), nothing, lambda: each.rollback_alias("team/sql", "prod")
    )
    events, _ = follow(each, clock)
    digests = {number: each.get(f"team/sql@{number}").digest for number in (1, 3)}

    assert short(events) == [("current", "team/sql@1"), ("moved", "team/sql@3"), ("moved", "team/sql@1")]
    assert [event.previous_digest for event in events] == [None, digests[1], digests[3]]
    assert all((event.path / "adapter_model.safetensors").is_file() for event in events)


def test_moves_between_two_looks_are_skipped_and_the_newest_is_not(team):
    def hurry():
        team.set_alias("team/sql@2", "prod")
        team.set_alias("team/sql@3", "prod")

    def back_and_forth():
        team.set_alias("team/sql@1", "prod")
        team.set_alias("team/sql@3", "prod")

    events, _ = follow(team, Clock(hurry, back_and_forth))
    assert short(events) == [("current", "team/sql@1"), ("moved", "team/sql@3")]


def test_a_move_during_the_pull_mixes_no_two_versions(team, monkeypatch):
    """The path belongs to the digest that is announced, wherever the alias is by then."""
    from registry.pulls import watch

    def pull_late(handle, ref):
        team.set_alias("team/sql@2", "prod")
        return pull(handle, ref)

    pull = watch.pull
    monkeypatch.setattr(watch, "pull", pull_late)
    events, _ = follow(team, Clock(nothing))

    assert short(events) == [("current", "team/sql@1"), ("moved", "team/sql@2")]
    assert [f"sha256:{event.path.name}" for event in events] == [event.digest for event in events]


def test_an_alias_that_goes_and_comes_back(each):
    clock = Clock(lambda: each.remove_alias("team/sql", "prod"), nothing, lambda: each.set_alias("team/sql@1", "prod"))
    events, _ = follow(each, clock)
    digest = each.get("team/sql@1").digest

    assert short(events) == [("current", "team/sql@1"), ("removed", None), ("moved", "team/sql@1")]
    gone = events[1]
    assert (gone.version, gone.digest, gone.path, gone.previous_digest) == (None, None, None, digest)
    assert events[2].previous_digest is None


@pytest.mark.parametrize("ref", ["team/sql", "team/sql@latest"])
def test_latest_follows_pushes_and_deletions(each, tmp_path, ref):
    def remove_all():
        each.remove_alias("team/sql", "prod")
        for number in (1, 2, 3, 4):
            each.remove(f"team/sql@{number}")

    clock = Clock(
        lambda: each.push(make_adapter(tmp_path / "4", 4), "team/sql"),
        lambda: each.remove("team/sql@4"),
        lambda: each.undelete("team/sql@4"),
        remove_all,
    )
    events, _ = follow(each, clock, ref)

    assert short(events) == [
        ("current", "team/sql@3"),
        ("moved", "team/sql@4"),
        ("moved", "team/sql@3"),
        ("moved", "team/sql@4"),
        ("removed", None),
    ]
    assert events[0].watched == "team/sql@latest"


@pytest.mark.parametrize(
    ("ref", "named"), [("team/sql@gone", "no alias gone"), ("team/none@prod", "no adapter of that name")]
)
def test_what_never_was_is_not_waited_for(each, ref, named):
    """A misspelt name must not wait for ever."""
    with pytest.raises(NotFoundError, match=named):
        follow(each, Clock(), ref)


@pytest.mark.parametrize("ref", ["team/sql@3", "team/sql@sha256:0123456789ab", "team/sql@prod@sha256:0123456789ab"])
def test_what_never_moves_is_not_followed(team, ref):
    with pytest.raises(UsageError, match="never moves"):
        team.watch(ref)


def test_an_interval_of_nothing_is_refused(team):
    with pytest.raises(UsageError, match="interval"):
        team.watch("team/sql@prod", interval=0)


def test_once_ends_after_the_first_event(team):
    events, _ = follow(team, Clock(), once=True)

    assert short(events) == [("current", "team/sql@1")]


def test_a_time_limit_ends_it(team):
    clock = Clock(*[nothing] * 20)
    events, _ = follow(team, clock, timeout=7.0, interval=2.0)

    assert short(events) == [("current", "team/sql@1")]
    assert clock.now == pytest.approx(7.0)


def test_it_looks_at_its_interval_and_not_in_step_with_others(team):
    clock = Clock(*[nothing] * 20)
    follow(team, clock, interval=10.0)

    assert all(9.0 <= seconds <= 11.0 for seconds in clock.pauses)
    assert len(set(clock.pauses)) > 1


class Away:
    """A database that is away while `down`."""

    def __init__(self, database):
        self.database, self.down = database, False

    def reading(self):
        if self.down:
            raise UnavailableError("database x cannot be reached")
        return self.database.reading()

    def __getattr__(self, name):
        return getattr(self.database, name)


def test_a_database_that_is_away_is_told_waited_for_and_caught_up_with(team):
    """The first event comes late, a move while it is away comes afterwards; waits grow up to a minute."""
    team._handle.database  # noqa: B018 (the schema is checked)
    away = team._handle.unchecked = Away(team._handle.unchecked)
    away.down = True

    def back():
        away.down = False

    def move_and_leave():
        away.down = False
        team.set_alias("team/sql@2", "prod")
        away.down = True

    told = []
    clock = Clock(nothing, back, move_and_leave, *[nothing] * 12, back, nothing)
    events, _ = follow(team, clock, notice=told)

    assert short(events) == [("current", "team/sql@1"), ("moved", "team/sql@2")]
    assert sum("cannot be reached; trying again in" in line for line in told) == 15
    assert [line for line in told if "again in" not in line] == ["watching team/sql@prod again"] * 2
    assert max(clock.pauses) <= 60.0
    assert all(pause > 0 for pause in clock.pauses)


def test_a_time_limit_before_anything_was_reached_is_an_error(team):
    team._handle.database  # noqa: B018 (the schema is checked)
    away = team._handle.unchecked = Away(team._handle.unchecked)
    away.down = True

    with pytest.raises(UnavailableError, match="cannot be reached"):
        follow(team, Clock(*[nothing] * 50), timeout=30.0)


def test_a_newer_schema_is_not_waited_for(team, monkeypatch):
    def refuse():
        raise SchemaError("database x has schema 9")

    monkeypatch.setattr(team._handle.unchecked, "reading", refuse)
    with pytest.raises(SchemaError):
        follow(team, Clock(nothing))


def test_wrong_bytes_are_never_announced(team):
    """The version after the damaged one is."""
    digest = next(file.sha256 for file in team.get("team/sql@2").files if file.path.endswith(".safetensors"))
    blob = team.settings.blobs / "sha256" / digest[7:9] / digest[7:]
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    told = []
    clock = Clock(
        lambda: team.set_alias("team/sql@2", "prod"), nothing, lambda: team.set_alias("team/sql@3", "prod"), nothing
    )
    events, _ = follow(team, clock, notice=told)

    assert short(events) == [("current", "team/sql@1"), ("moved", "team/sql@3")]
    assert any("wrong bytes" in line for line in told)
    with pytest.raises(CorruptError):
        team.set_alias("team/sql@2", "prod")
        follow(team, Clock())


def program(folder, body):
    path = folder / "hook.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path),)


def test_a_command_finds_the_event_in_its_environment(team, tmp_path):
    body = f'echo "$ADAPTERS_EVENT|$ADAPTERS_WATCHED|$ADAPTERS_REF|$ADAPTERS_DIGEST|$ADAPTERS_PATH|$ADAPTERS_PREVIOUS_DIGEST|$HOME" >> {tmp_path}/log'
    clock = Clock(lambda: team.set_alias("team/sql@2", "prod"), lambda: team.remove_alias("team/sql", "prod"), nothing)
    events, _ = follow(team, clock, command=program(tmp_path, body))
    one, two = (team.get(f"team/sql@{number}").digest for number in (1, 2))
    home = Path.home()

    assert (tmp_path / "log").read_text().splitlines() == [
        f"current|team/sql@prod|team/sql@1|{one}|{events[0].path}||{home}",
        f"moved|team/sql@prod|team/sql@2|{two}|{events[1].path}|{one}|{home}",
        f"removed|team/sql@prod||||{two}|{home}",
    ]


def test_a_command_is_given_words_and_no_shell(team, tmp_path):
    command = (*program(tmp_path, f'printf "%s|" "$@" > {tmp_path}/log'), "a b", "$HOME", "; id")
    follow(team, Clock(nothing), command=command)

    assert (tmp_path / "log").read_text() == "a b|$HOME|; id|"


def test_a_command_that_fails_runs_again_later_each_time_until_it_succeeds(team, tmp_path):
    """Runs at 0, then after 10, 20, 40 … seconds; its event is announced once."""
    body = f"echo x >> {tmp_path}/log; test $(wc -l < {tmp_path}/log) -ge 4"
    told = []
    clock = Clock(*[nothing] * 30)
    events, watch = follow(team, clock, interval=10.0, command=program(tmp_path, body), notice=told)

    assert short(events) == [("current", "team/sql@1")]
    assert (tmp_path / "log").read_text() == "x\n" * 4
    assert [line.partition("; again in ")[2].split()[0] for line in told] == ["10", "20", "40"]
    assert "ended with exit code 1" in told[0]
    assert not watch.command_fails


def test_a_newer_event_takes_the_place_of_a_run_that_is_owed(team, tmp_path):
    body = f'echo "$ADAPTERS_REF" >> {tmp_path}/log; test "$ADAPTERS_REF" = team/sql@2'
    clock = Clock(lambda: team.set_alias("team/sql@2", "prod"), *[nothing] * 8)
    _, watch = follow(team, clock, interval=10.0, command=program(tmp_path, body))

    assert (tmp_path / "log").read_text().splitlines() == ["team/sql@1", "team/sql@2"]
    assert not watch.command_fails


def test_a_time_limit_leaves_a_failing_command_owed(team, tmp_path):
    _, watch = follow(team, Clock(*[nothing] * 9), timeout=8.0, once=True, command=program(tmp_path, "exit 7"))

    assert watch.command_fails


def test_a_command_that_goes_away_is_told(team, tmp_path):
    told = []
    follow(team, Clock(nothing), command=(str(tmp_path / "none"),), notice=told)

    assert "none could not be started: No such file or directory" in told[0]


# The command line, as a process


def start(team, *arguments):
    environment = {"PATH": "/usr/bin:/bin", "ADAPTERS_HOME": str(team.settings.home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "registry", "watch", "team/sql@prod", "--interval", "1s", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_json_is_one_document_a_line_and_each_is_out_at_once(team):
    import json

    process = start(team, "--format", "json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    team.set_alias("team/sql@2", "prod")
    second = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert (first["event"], first["ref"], second["event"], second["ref"]) == (
        "current",
        "team/sql@1",
        "moved",
        "team/sql@2",
    )
    assert list(first) == ["event", "watched", "ref", "version", "digest", "path", "previous_digest"]
    assert second["previous_digest"] == first["digest"]
    assert Path(second["path"]).is_dir()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def alive(pid):
    """A zombie that nobody collects here is dead."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pids(path, count):
    """The process ids that a command wrote down, waited for."""
    end = time.monotonic() + 60
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < end
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def gone(pid):
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_its_command_with_all_that_it_started(team, tmp_path, number):
    """Also what does not end when it is asked."""
    stubborn = f"(trap '' TERM; echo $BASHPID >> {tmp_path}/pids; while :; do sleep 300; done) &"
    (command,) = program(
        tmp_path, f"exec bash -c '{stubborn.replace(chr(39), chr(34))} echo $$ >> {tmp_path}/pids; wait'"
    )
    process = start(team, "--exec", command)
    started = pids(tmp_path / "pids", 2)
    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert all(gone(pid) for pid in started)


def test_a_command_that_runs_beyond_the_time_limit_is_ended_with_all_that_it_started(team, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.pulls.hook._PATIENCE_S", 0.5)
    command = program(tmp_path, f"sleep 300 & echo $! > {tmp_path}/pids; wait")
    told = []
    _, watch = follow(team, Clock(*[nothing] * 9), timeout=0.4, once=True, command=command, notice=told)

    assert watch.command_fails
    assert "was ended when the time was over" in told[0]
    assert gone(*pids(tmp_path / "pids", 1))


def test_what_a_command_leaves_running_by_itself_stays(team, tmp_path):
    """A script may start the very service that it reloads."""
    command = program(tmp_path, f"sleep 300 > /dev/null 2>&1 & echo $! > {tmp_path}/pids")
    follow(team, Clock(nothing), once=True, command=command)
    (pid,) = pids(tmp_path / "pids", 1)

    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_what_a_command_prints_is_no_event(team, tmp_path):
    (command,) = program(tmp_path, 'echo "out of $1"')
    done = start(team, "--once", "--exec", f"{command} 'the hook'")
    out, err = done.communicate(timeout=60)

    assert done.returncode == 0
    assert [line.split()[0] for line in out.splitlines()] == ["current"]
    assert "out of the hook" in err


def test_exit_code_3_where_the_time_ends_before_the_command_succeeds(team):
    process = start(team, "--once", "--timeout", "2s", "--exec", "false")
    process.communicate(timeout=60)

    assert process.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--interval", "0"], "1s or more"),
        (["--exec", "/no/such/program x"], "no program"),
        (["--exec", "'unclosed"], "No closing quotation"),
        (["--exec", ""], "empty"),
        (["--timeout", "soon"], "soon"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_starts(team, capfd, arguments, named):
    from registry.cli.failure import run

    assert run(["watch", "team/sql@prod", *arguments], opener=lambda settings: team) == 2
    captured = capfd.readouterr()
    assert (captured.out, named in captured.err) == ("", True)
