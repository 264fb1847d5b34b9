"""Killed at any system call that changes something: what was acknowledged stays, what is left is harmless and goes.

The short run takes every STEP-th point and every rename, the long one (`make test-faults`) each of them.
"""

import itertools
import os
import shutil
from contextlib import contextmanager

import pytest
import torch

from registry.errors import NotFoundError
from tests.e2e.crashes import killed_at, points
from tests.postgres import copy, drop, named
from tests.registries import make_adapter, open_registry

NAME = "team/sql"
LONG = [pytest.mark.slow, pytest.mark.timeout(3600)]
pytestmark = [pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"), pytest.mark.timeout(600)]
_numbers = itertools.count()


class Places:
    """Copies of one prepared registry, home and database: one for each kill."""

    def __init__(self, folder, prepare, server=None):
        self.folder, self.server = folder, server
        self.template = self._name()
        if server is not None:
            copy(server, self.template)
        with self.opened(folder / "template", self.template) as registry:
            prepare(registry)

    @contextmanager
    def copy(self):
        """A home and the URL of its database, both as the preparation left them."""
        home, name = self.folder / f"home{next(_numbers)}", self._name()
        if (self.folder / "template").exists():
            shutil.copytree(self.folder / "template", home, copy_function=shutil.copyfile)
        if self.server is not None:
            copy(self.server, name, self.template)
        yield home, name
        if self.server is not None:
            drop(self.server, name)
        shutil.rmtree(home, ignore_errors=True)

    @contextmanager
    def opened(self, home, name):
        url = self.server and named(self.server, name)
        registry = open_registry(home, url)
        yield registry
        registry.close()  # a forked child must not inherit an open file of SQLite's

    def _name(self):
        return f"crash_{os.getpid()}_{next(_numbers)}"


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request):
    """The PostgreSQL server, or None for SQLite."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_server")


def every(step):
    """The short run and the long one."""
    return pytest.mark.parametrize("step", [step, pytest.param(1, marks=LONG)])


def sweep(places, work, check, tmp_path, step):
    """Kills `work(registry, speaker)` at each step-th point and checks each; how many points there are."""

    def child(home, name):
        def run(speaker):
            registry = places.opened(home, name).__enter__()
            work(registry, speaker)

        return run

    with places.copy() as (home, name), places.opened(home, name) as registry, (tmp_path / "warm").open("w") as speaker:
        work(registry, speaker)  # everything is imported before the first fork
    with places.copy() as (home, name):
        found = points(child(home, name), tmp_path / "log")
    chosen = [point for at, point in enumerate(found) if at % step == step // 2 or point.call == "rename"]
    missed = []
    for point in chosen:
        with places.copy() as (home, name):
            said = killed_at(child(home, name), point)
            if said is None:
                missed.append(point)
                continue
            with places.opened(home, name) as registry:
                check_promises(registry, said, point)
                check(registry, said)
                registry.gc(grace="0")
                assert registry.fsck().findings == (), point
                assert not (home / "staging").exists() or list((home / "staging").iterdir()) == [], point
    print(f"{len(found)} points, {len(chosen) - len(missed)} kills")
    # A server's answers come in one piece or two, so that the number of messages differs by one now and then.
    assert len(missed) <= (2 if places.server else 0), missed
    return found


def check_promises(registry, said, point):
    """What holds after any kill: nothing worse than leftovers, and what is listed is whole."""
    findings = registry.fsck().findings
    assert {finding.severity for finding in findings} <= {"info"}, (point, said, findings)
    for info in registry.list(all_versions=True):
        registry.verify(info.ref)


def same_files(folder, source):
    names = {path.name for path in source.iterdir()}
    return {path.name for path in folder.iterdir()} == names and all(
        (folder / name).read_bytes() == (source / name).read_bytes() for name in names
    )


def pusher(source, **labels):
    def work(registry, speaker):
        speaker.write(f"{registry.push(source, NAME, **labels).ref}\n")

    return work


@every(90)
def test_the_first_push_killed_anywhere(tmp_path, step):
    """Home, schema and version come to be in this push; SQLite."""
    source = make_adapter(tmp_path / "source", 1)

    def check(registry, said):
        there = registry.list()
        assert "team/sql@1" not in said or [info.ref for info in there] == ["team/sql@1"]
        again = registry.push(source, NAME)
        assert (again.version, again.created) == (1, not there)
        assert same_files(registry.pull(NAME), source)

    places = Places(tmp_path, lambda registry: None)
    found = sweep(places, pusher(source), check, tmp_path, step)

    assert {point.call for point in found} >= {"mkdir", "rename", "fsync", "fdatasync", "pwrite64", "unlink", "openat"}
    assert len(found) > 100


@every(100)
def test_a_later_push_killed_anywhere(tmp_path, server, step):
    """It moves an alias and sets a tag too: all of it happened, or nothing."""
    first, second = make_adapter(tmp_path / "first", 1), make_adapter(tmp_path / "second", 2)

    def check(registry, said):
        whole = len(registry.list(all_versions=True)) == 2
        assert whole or "team/sql@2" not in said
        assert registry.get("team/sql@prod").version == (2 if whole else 1)
        assert registry.get("team/sql").tags == ({"task": "sql"} if whole else {})
        again = registry.push(second, NAME, aliases=["prod"], tags={"task": "sql"})
        assert (again.version, again.created) == (2, not whole)
        assert same_files(registry.pull("team/sql@prod"), second)
        assert same_files(registry.pull("team/sql@1"), first)
        assert registry.push(make_adapter(tmp_path / "third", 3), NAME).version == 3

    places = Places(tmp_path, lambda registry: registry.push(first, NAME, aliases=["prod"]), server)
    work = pusher(second, aliases=["prod"], tags={"task": "sql"})
    found = sweep(places, work, check, tmp_path, step)

    assert {point.call for point in found} >= {"rename", "fsync", "sendto" if server else "pwrite64"}


@every(70)
def test_gc_killed_anywhere(tmp_path, server, step):
    """It frees a deleted version, an orphan and a dead staging folder; the version that stays is never touched."""
    first, second = make_adapter(tmp_path / "first", 1), make_adapter(tmp_path / "second", 2)

    def prepare(registry):
        registry.push(first, NAME)
        registry.push(second, NAME)
        registry.remove("team/sql@2")
        registry._handle.store.put_bytes(b"orphan")
        (registry.settings.staging / "dead.tmp").mkdir()
        (registry.settings.staging / "dead.tmp" / "x").write_text("x")

    def work(registry, speaker):
        speaker.write(f"freed {registry.gc(grace='0').versions}\n")

    def check(registry, said):
        assert [info.ref for info in registry.list(all_versions=True)] == ["team/sql@1"]
        assert same_files(registry.pull("team/sql@1"), first)
        try:
            registry.undelete("team/sql@2")
        except NotFoundError:
            registry.gc(grace="0")
        else:
            assert "freed" not in said
            assert same_files(registry.pull("team/sql@2"), second)
        assert registry.push(second, NAME).version == 2
        assert same_files(registry.pull("team/sql@2"), second)

    found = sweep(Places(tmp_path, prepare, server), work, check, tmp_path, step)

    assert [point.call for point in found].count("unlink") + [point.call for point in found].count("unlinkat") >= 3


@every(70)
def test_alias_moves_killed_anywhere(tmp_path, server, step):
    """Set, set and rm, each acknowledged: the alias is where the last acknowledged or the next step put it."""
    states = [1, 2, 1, None]

    def prepare(registry):
        registry.push(make_adapter(tmp_path / "first", 1), NAME, aliases=["prod"])
        registry.push(make_adapter(tmp_path / "second", 2), NAME)

    def work(registry, speaker):
        for version in states[1:]:
            if version is None:
                registry.remove_alias(NAME, "prod")
            else:
                registry.set_alias(f"{NAME}@{version}", "prod")
            speaker.write("done\n")

    def check(registry, said):
        now = {info.alias: info.version for info in registry.aliases(NAME)}.get("prod")
        done = said.count("done")
        assert now in states[done : done + 2]
        moves = [entry for entry in registry.log(NAME) if entry.kind == "alias"]
        assert len(moves) in (done + 1, done + 2)
        registry.set_alias(f"{NAME}@2", "prod")
        assert registry.get(f"{NAME}@prod").version == 2

    sweep(Places(tmp_path, prepare, server), work, check, tmp_path, step)


@every(70)
def test_rm_and_undelete_killed_anywhere(tmp_path, server, step):
    """Each acknowledged: the version is deleted or there, as the last acknowledged or the next step left it."""
    source = make_adapter(tmp_path / "source", 1)
    states = [True, False, True, False]

    def work(registry, speaker):
        for there in states[1:]:
            change = registry.undelete if there else registry.remove
            change(f"{NAME}@1")
            speaker.write("done\n")

    def check(registry, said):
        there = [info.ref for info in registry.list(all_versions=True)] == ["team/sql@1"]
        done = said.count("done")
        assert there in states[done : done + 2]
        assert registry.push(source, NAME).version == 1
        assert same_files(registry.pull(NAME), source)

    sweep(Places(tmp_path, lambda registry: registry.push(source, NAME), server), work, check, tmp_path, step)


@every(200)
def test_a_merge_killed_anywhere(tmp_path, server, step):
    """The result is whole with its edges, or not there; the parents stay; the same merge again gives the same digest."""
    first, second = make_adapter(tmp_path / "first", 1), make_adapter(tmp_path / "second", 2)
    parents = ["team/first", "team/second"]

    def prepare(registry):
        registry.push(first, parents[0])
        registry.push(second, parents[1])

    def work(registry, speaker):
        torch.set_num_threads(1)  # before the fork for all that follow
        result = registry.merge(parents, weights=[0.5, 0.5], combination="svd", into=NAME)
        speaker.write(f"{result.ref} {result.digest}\n")

    def check(registry, said):
        whole = registry.list(name=NAME)
        assert whole or "team/sql@1" not in said
        if whole:
            edges = [edge for edge in registry.lineage(NAME, down=False).edges if edge.relation == "merged_from"]
            assert sorted((edge.parent, edge.weight) for edge in edges) == [(f"{name}@1", 0.5) for name in parents]
        again = registry.merge(parents, weights=[0.5, 0.5], combination="svd", into=NAME)
        assert (again.version, again.created) == (1, not whole)
        assert not whole or whole[0].digest == again.digest
        assert same_files(registry.pull(parents[0]), first)
        assert same_files(registry.pull(parents[1]), second)

    sweep(Places(tmp_path, prepare, server), work, check, tmp_path, step)
