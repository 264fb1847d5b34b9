"""Where things are: the only reader of the environment. Precedence: flag, environment, files (contexts.py), default."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.contexts import Chosen, absolute, choose
from registry.errors import UsageError
from registry.origins.provenance import LONGEST, Claim, first
from registry.origins.surroundings import surrounding_actor, surrounding_claims
from registry.project import ConfigFile, PushDefaults, find_project, find_user

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

FORMATS = ("human", "json", "quiet")
COMPLETION = "_ADAPTERS_COMPLETE"
COMPLETION_LINE = "_ADAPTERS_LINE"


@dataclass(frozen=True, slots=True)
class Settings:
    """One registry's places and the caller's defaults.

    `database_url` None means SQLite at `home/catalog.db`; `store_url` None means the folder `home/blobs`;
    `cache` None means the folder `home/pulled`, `hub_endpoint` None the Hugging Face Hub itself. `chosen` and `files`
    say what adapters.toml had to do with it, `sources` what says each place: a flag, a variable, a file. `step_summary`
    is where a step of a GitHub workflow puts its page.
    """

    home: Path
    database_url: str | None = None
    store_url: str | None = None
    cache: Path | None = None
    namespace: str = "local"
    output: str = "human"
    hub_endpoint: str | None = None
    acting: str | None = field(default=None, compare=False)
    actor_problem: str | None = field(default=None, compare=False)
    surroundings: Mapping[str, Claim] = field(default_factory=dict, compare=False)
    color: bool = field(default=True, compare=False)
    step_summary: Path | None = field(default=None, compare=False)
    push: PushDefaults = field(default_factory=PushDefaults, compare=False)
    chosen: Chosen = field(default_factory=Chosen, compare=False)
    files: tuple[ConfigFile, ...] = field(default=(), compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def actor(self) -> str | None:
        """Who is written beside what is done; UsageError where that cannot be stored. Who only reads never asks."""
        if self.actor_problem is not None:
            raise UsageError(self.actor_problem, hint="unset ADAPTERS_ACTOR, or set it to a name")
        return self.acting

    @property
    def notes(self) -> tuple[str, ...]:
        """What the files and the environment say that whoever uses them should know."""
        overruled = () if self.chosen.note is None else (self.chosen.note,)
        return (*(text for file in self.files for text in file.warnings), *overruled)

    @property
    def catalog_file(self) -> Path:
        """The SQLite file, used where no database URL is given."""
        return self.home / "catalog.db"

    @property
    def has_catalog(self) -> bool:
        """Whether there is a catalog to ask: a server's, or a file that exists. Nothing is opened."""
        return self.database_url is not None or self.catalog_file.exists()

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
    def artifacts(self) -> Path:
        """Locks and scratch of builds: nothing that has to stay."""
        return self.home / "artifacts"

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
    context: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from flags, environment, the nearest adapters.toml at or above `folder`, the user's file, defaults."""
    env = os.environ if environ is None else environ  # noqa: TID251 (this is the one place)
    actor, problem = _actor(env)
    files = _files(env, folder or _here())
    which = choose(files, flag=context, variable=env.get("ADAPTERS_CONTEXT"))
    flags = {"home": home, "database_url": database_url, "store_url": store_url}
    which = which.below_home(str(home or env.get("ADAPTERS_HOME") or ""), "--home" if home else "ADAPTERS_HOME")

    def pick(flag: object, variable: str, key: str) -> str | None:
        return str(flag) if flag not in (None, "") else which.place(key, env.get(variable)) or None

    chosen = pick(output, "ADAPTERS_FORMAT", "format") or "human"
    if chosen not in FORMATS:
        raise UsageError(f"format {chosen!r} is not one of {', '.join(FORMATS)}")
    cache = pick(None, "ADAPTERS_CACHE", "cache")
    return Settings(
        home=absolute(pick(home, "ADAPTERS_HOME", "home") or str(_default_home(env))),
        database_url=_with_driver(pick(database_url, "ADAPTERS_DATABASE_URL", "database_url")),
        store_url=pick(store_url, "ADAPTERS_STORE_URL", "store_url"),
        cache=None if cache is None else absolute(cache),
        namespace=pick(None, "ADAPTERS_NAMESPACE", "namespace") or "local",
        output=chosen,
        hub_endpoint=env.get("HF_ENDPOINT") or None,
        acting=None if actor is None else actor.value,
        actor_problem=problem,
        surroundings=first(_who(actor), surrounding_claims(env), *(file.provenance for file in files)),
        color=not env.get("NO_COLOR") and env.get("TERM") != "dumb",
        step_summary=Path(env["GITHUB_STEP_SUMMARY"]) if env.get("GITHUB_STEP_SUMMARY") else None,
        push=next((file.push for file in files if file.push != PushDefaults()), PushDefaults()),
        chosen=which,
        files=files,
        sources={key: _says(key, flag, which, env) for key, flag in flags.items()},
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


def one_blas_thread(environ: MutableMapping[str, str] | None = None) -> None:
    """Let numpy, once this process or one of its children imports it, multiply in the calling thread alone, unless the
    environment says otherwise.

    For commands whose matrices are small: every idle thread of OpenBLAS first spins for 0.1 s of a processor.
    """
    env = os.environ if environ is None else environ  # noqa: TID251 (this is the one place)
    env.setdefault("OPENBLAS_NUM_THREADS", "1")


def _says(key: str, flag: object, which: Chosen, env: Mapping[str, str]) -> str:
    variable = f"ADAPTERS_{key.upper()}"
    return f"--{key.replace('_', '-')}" if flag else which.says(key, env.get(variable), variable)


def _files(env: Mapping[str, str], folder: Path) -> tuple[ConfigFile, ...]:
    user = find_user(env)
    project = find_project(folder, () if user is None else user.trusted)
    return tuple(file for file in (project, user) if file is not None)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError(
            "the current folder is gone: it was removed or replaced", hint="cd to one that exists"
        ) from None


def _default_home(env: Mapping[str, str]) -> Path:
    data = env.get("XDG_DATA_HOME")
    return (Path(data) if data else Path("~/.local/share")) / "adapters"


def _who(actor: Claim | None) -> dict[str, Claim]:
    return {} if actor is None else {"pushed_by": actor}


def _actor(env: Mapping[str, str]) -> tuple[Claim | None, str | None]:
    """Who is at work, and what is wrong with how the environment says it."""
    try:
        return surrounding_actor(env) or Claim(getpass.getuser()[:LONGEST], "user name"), None
    except UsageError as error:
        return None, str(error)
    except (KeyError, OSError):  # a container may run under a user id without a name
        return None, None


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
