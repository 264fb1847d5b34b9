"""Databases and disks that cannot be used, through the real command line: the documented exit code, one line that names the thing, nothing changed."""

import gc
import json
import os
import sqlite3

import pytest

from registry.catalog import database
from registry.catalog.database import Database
from tests.e2e.shell import snapshot
from tests.registry.places import mounted, remount

# Databases


VERBS = [["list"], ["show", "team/sql"], ["push", "./two", "t/two"], ["pull", "team/sql"], ["gc"], ["doctor"]]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "busy_timeout_s", 0.05)
    monkeypatch.setattr(database, "_TRIES", 2)


def test_a_locked_database_is_said_to_be_locked(shell, impatient):
    """Another program holds SQLite's own lock."""
    holder = sqlite3.connect(shell.home / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with shell.nothing_changed():
            for verb in VERBS:
                shell.refused(*verb, code=7, named="locked")
    finally:
        holder.close()
    shell.say("push", "./two", "t/two")


def test_a_pinned_version_is_served_while_the_database_is_locked(shell, impatient):
    """P8: what was pulled before is found by its digest."""
    digest = json.loads(shell.say("pull", "team/sql", "--format", "json"))["digest"]
    holder = sqlite3.connect(shell.home / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    out = shell.say("pull", f"team/sql@{digest}", "--format", "quiet")
    holder.close()
    assert digest.removeprefix("sha256:") in out


def _sql(*statements):
    def change(file):
        connection = sqlite3.connect(file)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return change


def _replaced(content):
    return lambda file: file.write_bytes(content)


def _another_program(file):
    file.unlink()
    _sql("CREATE TABLE theirs (x)", "PRAGMA application_id = 7")(file)


def _another_programs_tables(file):
    file.unlink()
    _sql("CREATE TABLE theirs (x)")(file)


def _cut_short(file):
    file.write_bytes(file.read_bytes()[:-9000])


def _folder(file):
    file.unlink()
    file.mkdir()


DATABASES = {
    "newer": _sql("UPDATE catalog_meta SET value = '99' WHERE key IN ('schema', 'oldest_client')"),
    "another program's": _another_program,
    "without our mark": _another_programs_tables,
    "text": _replaced(b"this is no database, only text\n" * 100),
    "zeros": _replaced(bytes(8192)),
    "cut short": _cut_short,
    "a folder": _folder,
}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_database_that_is_not_ours_to_use_is_left_alone(shell, kind):
    DATABASES[kind](shell.home / "catalog.db")
    with shell.nothing_changed():
        for verb in VERBS:
            shell.refused(*verb, code=7, named="catalog.db")


def test_a_server_that_cannot_be_reached_is_named_without_its_password(shell):
    urls = ["postgresql://ann:s3cret@127.0.0.1:1/none", "postgresql://127.0.0.1:1/none?user=ann&password=s3cret"]
    with shell.nothing_changed():
        for url in urls:
            for verb in VERBS:
                assert "s3cret" not in shell.refused(*verb, "--database-url", url, code=7, named="127.0.0.1")
    for url in ("mysql://ann:s3cret@h/d", "postgresql://ann:s3cret@h:port/d", "sqlite://", "s3cret"):
        assert "s3cret" not in shell.refused("list", "--database-url", url, code=2)


# Disks


@pytest.fixture
def small(bare, monkeypatch):
    """A shell whose home is a file system of 2 MiB, with ./one pushed."""
    with mounted("tmpfs", "-o", "size=2m") as place:
        bare.home = place / "home"
        monkeypatch.setenv("ADAPTERS_HOME", str(bare.home))
        bare.say("push", "./one", "team/sql")
        yield bare, place


def fill(place, *, free):
    """Leaves this many bytes, in pages."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    space = os.statvfs(place)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))


def test_a_push_to_a_full_disk_changes_nothing_whatever_room_is_left(small):
    """4 KiB at a time, until the push fits."""
    shell, place = small
    for pages in range(60):
        fill(place, free=4096 * pages)
        listed = shell.say("list", "--format", "json", "--all-versions")
        code, out, err = shell("push", "./two", "team/sql")
        if code == 0:
            break
        assert (code, out) == (7, ""), err
        assert err.startswith("error: ")
        assert os.strerror(28) in err or "full" in err
        assert shell.say("list", "--format", "json", "--all-versions") == listed
        assert not list((shell.home / "staging").iterdir())
    assert 1 < pages < 59
    (place / "ballast").unlink()
    assert json.loads(shell.say("fsck", "--format", "json"))["status"] == "pass"
    shell.say("gc", "--grace", "0")
    assert json.loads(shell.say("fsck", "--format", "json"))["findings"] == []


def test_a_pull_to_a_full_disk_leaves_nothing(small):
    shell, place = small
    fill(place, free=4096)
    before = snapshot(place)
    for target in ([], ["--to", str(place / "out")]):
        assert shell.refused("pull", "team/sql", *target, code=7, named="No space left")
        kept = {
            path: entry for path, entry in snapshot(place).items() if not path.endswith(("/pulled", ".json", ".lock"))
        }
        assert kept == before
    (place / "ballast").unlink()
    shell.say("pull", "team/sql")


def test_a_registry_on_a_read_only_mount_can_be_read(small, work):
    """list, show, verify and pull --to work; what would write says that it cannot."""
    shell, place = small
    gc.collect()  # the commands above ran in this process and held files open for writing
    remount(place, "ro")
    try:
        with shell.nothing_changed():
            assert json.loads(shell.say("list", "--format", "json"))[0]["ref"] == "team/sql@1"
            for verb in (["show", "team/sql"], ["verify", "team/sql"], ["log", "team/sql"], ["fsck"]):
                shell.say(*verb)
            shell.say("pull", "team/sql", "--to", "./out")
            changes = [["push", "./two", "t/two"], ["pull", "team/sql"], ["alias", "set", "team/sql", "prod"], ["gc"],
                       ["rm", "team/sql"], ["tag", "set", "team/sql", "a=b"]]  # fmt: skip
            for verb in changes:
                shell.refused(*verb, code=7, named="ead-only")
    finally:
        remount(place, "rw")
    assert (work / "out" / "adapter_config.json").read_bytes() == (work / "one" / "adapter_config.json").read_bytes()


def test_a_pull_to_a_read_only_mount_is_refused(shell):
    with mounted("tmpfs", "-o", "size=1m,ro") as place:
        shell.refused("pull", "team/sql", "--to", str(place / "out"), code=7, named="ead-only")
