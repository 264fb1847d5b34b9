"""Where things are: the only reader of the environment. Precedence: flag, environment, adapters.toml, default."""

from __future__ import annotations

import getpass
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.errors import UsageError
from registry.provenance import LONGEST, Claim
from registry.surroundings import surrounding_actor, surrounding_claims

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS = ("human", "json", "quiet")
COMPLETION = "_ADAPTERS_COMPLETE"
COMPLETION_LINE = "_ADAPTERS_LINE"
_FILE_KEYS = frozenset({"home", "database_url", "store_url", "namespace", "format", "cache"})


@dataclass(frozen=True, slots=True)
class Settings:
    """One registry's places and the caller's defaults.

    `database_url` None means SQLite at `home/catalog.db`; `store_url` None means the folder `home/blobs`;
    `cache` None means the folder `home/pulled`, `hub_endpoint` None the Hugging Face Hub itself.
    """

    home: Path
    database_url: str | None = None
    store_url: str | None = None
    cache: Path | None = None
    namespace: str = "local"
    output: str = "human"
    hub_endpoint: str | None = None
    actor: str | None = field(default=None, compare=False)
    surroundings: Mapping[str, Claim] = field(default_factory=dict, compare=False)
    color: bool = field(default=True, compare=False)

    @property
    def catalog_file(self) -> Path:
        """The SQLite file, used where no database URL is given."""
        return self.home / "catalog.db"

    @property
    def blobs(self) -> Path:
        """The local blob store."""
        return self.home / "blobs"

    @property
    def pulled(self) -> Path:
        """Immutable pulled versions, one directory per digest; `cache` may be shared by the users of a machine."""
        return self.cache or self.home / "pulled"

    @property
    def staging(self) -> Path:
        """Files on their way in: same file system as the blobs, so that a rename puts them in place."""
        return self.home / "staging"

    @property
    def resolved_database_url(self) -> str:
        """The URL to connect to."""
        return self.database_url or f"sqlite:///{self.catalog_file}"


def load_settings(
    *,
    home: str | Path | None = None,
    database_url: str | None = None,
    store_url: str | None = None,
    output: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from flags, environment, the nearest adapters.toml at or above `folder`, then defaults."""
    env = os.environ if environ is None else environ  # noqa: TID251 (this is the one place)
    actor = _actor(env)
    file = _project_file(folder or Path.cwd())

    def pick(flag: object, variable: str, key: str) -> str | None:
        for value in (flag, env.get(variable), file.get(key)):
            if value not in (None, ""):
                return str(value)
        return None

    chosen = pick(output, "ADAPTERS_FORMAT", "format") or "human"
    if chosen not in FORMATS:
        raise UsageError(f"format {chosen!r} is not one of {', '.join(FORMATS)}")
    cache = pick(None, "ADAPTERS_CACHE", "cache")
    return Settings(
        home=Path(pick(home, "ADAPTERS_HOME", "home") or _default_home(env)).expanduser().absolute(),
        database_url=_with_driver(pick(database_url, "ADAPTERS_DATABASE_URL", "database_url")),
        store_url=pick(store_url, "ADAPTERS_STORE_URL", "store_url"),
        cache=None if cache is None else Path(cache).expanduser().absolute(),
        namespace=pick(None, "ADAPTERS_NAMESPACE", "namespace") or "local",
        output=chosen,
        hub_endpoint=env.get("HF_ENDPOINT") or None,
        actor=None if actor is None else actor.value,
        surroundings=surrounding_claims(env) | ({} if actor is None else {"pushed_by": actor}),
        color=not env.get("NO_COLOR") and env.get("TERM") != "dumb",
    )


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a shell asks for at TAB: `bash_source`, `zsh_complete`, …, and the line up to the cursor."""

    instruction: str
    line: str


def completion_request(environ: Mapping[str, str] | None = None) -> CompletionRequest | None:
    """A shell's request, or None for an ordinary command."""
    env = os.environ if environ is None else environ  # noqa: TID251 (this is the one place)
    instruction = env.get(COMPLETION)
    return CompletionRequest(instruction, env.get(COMPLETION_LINE, "")) if instruction else None


def has_environment_keys(environ: Mapping[str, str] | None = None) -> bool:
    """Whether S3's credentials stand in the environment itself, where its client reads them."""
    env = os.environ if environ is None else environ  # noqa: TID251 (this is the one place)
    return bool(env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"))


def environment_with(values: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that is run: this process's own, and these."""
    return {**os.environ, **values}  # noqa: TID251 (this is the one place)


def _default_home(env: Mapping[str, str]) -> Path:
    data = env.get("XDG_DATA_HOME")
    return (Path(data) if data else Path("~/.local/share")) / "adapters"


def _actor(env: Mapping[str, str]) -> Claim | None:
    try:
        return surrounding_actor(env) or Claim(getpass.getuser()[:LONGEST], "user name")
    except (KeyError, OSError):  # a container may run under a user id without a name
        return None


def _with_driver(url: str | None) -> str | None:
    """PostgreSQL goes through psycopg 3, whichever spelling of the scheme was given."""
    if url is None:
        return None
    scheme = urlsplit(url).scheme
    if scheme in ("postgres", "postgresql"):
        return "postgresql+psycopg" + url[len(scheme) :]
    if scheme not in ("sqlite", "postgresql+psycopg"):
        raise UsageError(f"database URL of scheme {scheme!r}: expected sqlite:/// or postgresql://")
    return url


def _project_file(folder: Path) -> dict[str, Any]:
    for place in (folder, *folder.parents):
        path = place / "adapters.toml"
        if path.is_file():
            return _read_project_file(path)
    return {}


def _read_project_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not readable as TOML: {error}") from None
    unknown = sorted(set(content) - _FILE_KEYS)
    if unknown:
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_FILE_KEYS))}")
    wrong = [key for key, value in content.items() if not isinstance(value, str)]
    if wrong:
        raise UsageError(f"{path}: {wrong[0]!r} must be a string, found {content[wrong[0]]!r}")
    places: dict[str, Any] = {
        key: str(path.parent / Path(content[key]).expanduser()) for key in ("home", "cache") if key in content
    }
    return {**content, **places}
