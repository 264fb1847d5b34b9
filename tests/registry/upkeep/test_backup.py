"""backup: one state of a SQLite catalog while pushers write, checked, durable, never over something else."""

import shutil
import sqlite3
import threading

import pytest

from registry.errors import ConflictError, CorruptError, UnavailableError, UsageError
from registry.upkeep import backup
from tests.factories import publish
from tests.registries import make_adapter, open_registry


@pytest.fixture
def pushed(tmp_path):
    registry = open_registry(tmp_path / "home")
    registry.push(make_adapter(tmp_path / "a"), "team/a", tags={"k": "v"}, aliases=["prod"])
    yield registry
    registry.close()


def test_a_backup_restores_the_catalog(pushed, tmp_path):
    """Catalog first, blobs after; restored the other way round."""
    before = pushed.show("team/a@prod")

    result = pushed.backup(tmp_path / "copy.db")
    shutil.copytree(tmp_path / "home" / "blobs", tmp_path / "other" / "blobs")
    shutil.copyfile(tmp_path / "copy.db", tmp_path / "other" / "catalog.db")
    other = open_registry(tmp_path / "other")

    assert (result.versions, result.size) == (1, (tmp_path / "copy.db").stat().st_size)
    assert result.database == str(tmp_path / "home" / "catalog.db")
    assert other.show("team/a@prod") == before
    assert other.fsck().findings == ()
    other.close()


def test_what_was_pushed_after_the_backup_comes_back_by_a_rebuild(pushed, tmp_path):
    pushed.backup(tmp_path / "copy.db")
    late = pushed.push(make_adapter(tmp_path / "b", 1), "team/a", parents=["team/a@1"])
    pushed.close()
    shutil.copyfile(tmp_path / "copy.db", tmp_path / "home" / "catalog.db")

    result = pushed.fsck(rebuild=True)

    assert (result.status, result.made) == ("pass", ("team/a@2",))
    assert pushed.show("team/a@2").digest == late.digest
    assert pushed.show("team/a@1").aliases == ("prod",)


def test_a_backup_under_load_is_one_state(pushed, tmp_path):
    """Every version in the copy has all its rows, however many were being published."""
    stop, made = threading.Event(), []

    def push():
        while not stop.is_set():
            made.append(publish(pushed._handle.database, "load/x", len(made)).number)

    thread = threading.Thread(target=push)
    thread.start()
    while len(made) < 3:
        stop.wait(0.01)
    sizes = [pushed.backup(tmp_path / f"{turn}.db").versions for turn in range(3)]
    stop.set()
    thread.join()

    assert sizes == sorted(sizes)
    assert sizes[0] >= 4
    for turn, versions in enumerate(sizes):
        copy = sqlite3.connect(tmp_path / f"{turn}.db")
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("PRAGMA foreign_key_check").fetchall() == []
        assert copy.execute("SELECT count(DISTINCT version_id) FROM files WHERE role = 'record'").fetchone() == (
            versions,
        )
        copy.close()


def test_a_backup_never_replaces_a_file_unless_told(pushed, tmp_path):
    (tmp_path / "copy.db").write_text("mine")

    with pytest.raises(ConflictError, match="exists"):
        pushed.backup(tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_text() == "mine"
    assert pushed.backup(tmp_path / "copy.db", force=True).versions == 1


def test_postgresql_is_backed_up_by_pg_dump(postgres_url, tmp_path):
    registry = open_registry(tmp_path / "home", postgres_url)

    with pytest.raises(UsageError, match="pg_dump"):
        registry.backup(tmp_path / "copy.db")
    registry.close()


def test_a_damaged_catalog_makes_no_backup(pushed, tmp_path):
    """A page in the middle is overwritten: SQLite copies it as it is, the check of the copy finds it."""
    pushed.close()
    catalog = tmp_path / "home" / "catalog.db"
    connection = sqlite3.connect(catalog)
    page = connection.execute("PRAGMA page_size").fetchone()[0]
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'audit_log'").fetchone() or (0,)
    connection.close()
    content = bytearray(catalog.read_bytes())
    at = ((root or len(content) // page - 1) - 1) * page
    content[at : at + page] = b"\xff" * page
    catalog.write_bytes(content)

    with pytest.raises((CorruptError, UnavailableError)):
        pushed.backup(tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


def test_what_comes_to_the_name_meanwhile_is_not_replaced(pushed, tmp_path, monkeypatch):
    copy = backup._copy

    def slow(file, target):
        versions = copy(file, target)
        (tmp_path / "copy.db").write_text("somebody else's")
        return versions

    monkeypatch.setattr(backup, "_copy", slow)
    with pytest.raises(ConflictError, match="exists"):
        pushed.backup(tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_text() == "somebody else's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "copy.db", "home"]


def test_a_backup_is_one_file_whatever_the_catalogs_journal(pushed, tmp_path):
    """What only a write-ahead log holds is in the copy, which needs no log beside it."""
    pushed.close()
    writer = sqlite3.connect(tmp_path / "home" / "catalog.db")
    assert writer.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    writer.execute("UPDATE versions SET message = 'in the log'")
    writer.commit()

    pushed.backup(tmp_path / "copy.db")

    (tmp_path / "alone").mkdir()
    shutil.copyfile(tmp_path / "copy.db", tmp_path / "alone" / "copy.db")
    copy = sqlite3.connect(tmp_path / "alone" / "copy.db")
    assert copy.execute("SELECT message FROM versions").fetchall() == [("in the log",)]
    assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    copy.close()
    writer.close()
