"""Every adapter of an account becomes a version; one that cannot does not stop the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.errors import EngineError
from registry.errors import ConflictError, FindingsError, RegistryError, UnavailableError
from registry.hub.account import adapters_of
from registry.hub.client import connected
from registry.hub.listing import snapshot
from registry.hub.push import SOURCE, push_tree
from registry.hub.results import HubImportResult, ImportedRepo
from registry.models import Adapter, Tag, Version
from registry.push import PushRequest, check_allowed
from registry.values.progress import silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from registry.handle import Handle
    from registry.hub.account import Found
    from registry.hub.place import HubPattern
    from registry.values.progress import Progress
    from registry.values.refs import Name

_PATIENCE = 3  # adapters in a row that the Hub or the registry was away for


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRequest:
    """What is wanted. `match` is one more glob over names, `limit` how many that are not here yet; 0 means all."""

    pattern: HubPattern
    into: str | None = None
    match: str | None = None
    limit: int = 0
    allow: tuple[str, ...] = ()
    dry_run: bool = False
    actor: str | None = None


def import_account(handle: Handle, request: BulkRequest, *, progress: Progress = silent) -> HubImportResult:
    """Push what an account has and this registry lacks. Run again it goes on where it stopped: an adapter whose
    commit is here already is not downloaded.
    """
    check_allowed(request.allow)
    with connected(handle.settings) as api:
        account = adapters_of(api, request.pattern, match=request.match, into=request.into)
        work = _Work(handle, request, api, progress)
        rows = [work.one(found) for found in account.adapters]
    notes = [] if work.left == 0 else [f"{work.left} more: run the command again"]
    return HubImportResult(
        source=str(request.pattern),
        repos=tuple(row for row in rows if row is not None),
        others=account.others,
        notes=tuple(notes),
        dry_run=request.dry_run,
    )


class _Work:
    """One import. A class because it counts as it goes."""

    def __init__(self, handle: Handle, request: BulkRequest, api: HfApi, progress: Progress) -> None:
        self.handle, self.request, self.api, self.progress = handle, request, api, progress
        self.taken: dict[Name, str] = {}
        self.done = self.away = self.left = 0

    def one(self, found: Found) -> ImportedRepo | None:
        """What became of one adapter; None where the limit was reached before it."""
        source = str(found.place)
        other = self.taken.setdefault(found.name, source)
        if other != source:
            error = ConflictError(f"{found.name} is the name of {other} too")
            return _failed(source, error)
        if number := _known(self.handle, found):
            return ImportedRepo(source, f"{found.name}@{number}", "unchanged")
        if self.request.limit and self.done >= self.request.limit:
            self.left += 1
            return None
        self.done += 1
        if self.request.dry_run:
            return ImportedRepo(source, str(found.name), "would import")
        if self.away >= _PATIENCE:
            return ImportedRepo(source, None, "not tried", exit_code=UnavailableError.exit_code)
        return self._pushed(found, source)

    def _pushed(self, found: Found, source: str) -> ImportedRepo:
        request = PushRequest(
            path=Path(source),
            name=found.name,
            allow=self.request.allow,
            actor=self.request.actor,
            surroundings=self.handle.settings.surroundings,
        )
        try:
            tree = snapshot(self.api, found.place)
            pushed = push_tree(self.handle, request, self.api, tree, progress=self.progress)
        except (RegistryError, EngineError) as error:
            self.away = self.away + 1 if isinstance(error, UnavailableError) else 0
            return _failed(source, error)
        self.away = 0
        status = "created" if pushed.created else "unchanged"
        return ImportedRepo(str(tree.place), pushed.ref, status, findings=pushed.findings)


def _failed(source: str, error: RegistryError | EngineError) -> ImportedRepo:
    refused = isinstance(error, FindingsError)
    findings = error.findings if isinstance(error, FindingsError) else ()
    status = "refused" if refused else "failed"
    why, hint = str(error).removeprefix(f"{source}: "), getattr(error, "hint", None)
    return ImportedRepo(source, None, status, why, hint, findings, error.exit_code)


def _known(handle: Handle, found: Found) -> int | None:
    """The version that holds this very commit already."""
    if not found.place.is_commit:
        return None
    query = (
        select(Version.number)
        .join(Adapter, Adapter.id == Version.adapter_id)
        .join(Tag, Tag.version_id == Version.id)
        .where(Adapter.namespace == found.name.namespace, Adapter.name == found.name.name)
        .where(Tag.key == SOURCE, Tag.value == str(found.place), Version.deleted_at.is_(None))
        .order_by(Version.number.desc())
        .limit(1)
    )
    with handle.database.reading() as session:
        return session.scalar(query)
