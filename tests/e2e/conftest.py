"""Fixtures of the tests that run the real command line in this process."""

import pytest

from registry.origins.surroundings import VARIABLES
from tests.e2e.shell import Shell
from tests.registries import make_adapter


@pytest.fixture
def bare(capfd, monkeypatch, tmp_path):
    """A shell without a registry, beside the adapter ./one."""
    for variable in ("ADAPTERS_FORMAT", "ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in (name for names in VARIABLES.values() for name in names):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERS_ACTOR", "ann")
    monkeypatch.chdir(tmp_path / "work")
    make_adapter(tmp_path / "work" / "one", 1)
    make_adapter(tmp_path / "work" / "two", 2)
    return Shell(capfd, tmp_path / "home")


@pytest.fixture
def shell(bare, sqlite_template):
    """A shell with a registry that holds ./one as team/sql@1, alias prod."""
    bare.home.mkdir()
    (bare.home / "catalog.db").write_bytes(sqlite_template.read_bytes())
    bare.say("push", "./one", "team/sql", "--alias", "prod")
    return bare


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"
