"""A version goes to the Hub: one commit with all its files and a model card, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.format.adapter import PICKLE_NAME
from engine.format.select import select_files
from registry.browse.detail import show
from registry.errors import ConflictError, CorruptError, NotFoundError, UnavailableError, UsageError
from registry.hub.card import make_card
from registry.hub.client import asked, connected
from registry.hub.faults import asking
from registry.hub.listing import HubHead, files_at, head
from registry.hub.place import HubPlace
from registry.hub.results import SentResult
from registry.pulls.pull import pull
from registry.values.progress import silent
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    from registry.handle import Handle
    from registry.hub.listing import HubFile
    from registry.hub.oid import Oid
    from registry.results import VersionDetail
    from registry.values.progress import Progress
    from registry.values.refs import Ref

_CARD = "README.md"
_LONGEST_CARD = 8 << 20  # bytes: the text is added to in memory
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """What is wanted. `place` names a branch, or none for main; `public` allows a public repo, also a new one."""

    ref: Ref
    place: HubPlace
    public: bool = False
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Cargo:
    """A version's files as the Hub gets them: paths below the place, each a verified file or the card's bytes."""

    version: VersionDetail
    files: Mapping[str, Path | bytes]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one commit would change."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not (self.added or self.replaced or self.removed)


def send(handle: Handle, request: SendRequest, *, progress: Progress = silent) -> SentResult:
    """Write a version to a place on the Hub, in a new private repo where there is none.

    The same content is left as it is. ConflictError where other adapter files are there and `force` was not given,
    and for a public repo without `public`; `force` replaces the adapter's files and leaves all others.
    """
    if request.place.is_commit:
        raise UsageError(f"{request.place}: a commit cannot be written to", hint="name a branch, or nothing for main")
    cargo = _cargo(handle, request, progress)
    with connected(handle.settings) as api:
        found = _head(api, request.place)
        there = {} if found is None else _files(api, found.place)
        plan = _plan(cargo, there)
        _check(request, plan, found)
        if request.dry_run or (plan.empty and found is not None):
            return _result(request, cargo, plan, found, created=False)
        if found is None:
            found, plan = _make(api, request, cargo)
        commit = _commit(api, request, cargo, plan, found)
    return _result(request, cargo, plan, replace(found, place=commit), created=True)


def _cargo(handle: Handle, request: SendRequest, progress: Progress) -> _Cargo:
    with handle.database.reading() as session:
        version = show(session, resolve(session, request.ref).id)
    exact = replace(request.ref, number=version.version, alias=None, latest=False, digest=version.digest)
    folder = pull(handle, exact, progress=progress).path
    paths = {entry.path for entry in version.files}
    own = next((path for path in sorted(paths) if path.lower() == _CARD.lower()), None)
    text, notes = (None, ()) if own is None else _text(folder / own)
    card = make_card(text, version, version.licence).text.encode()
    return _Cargo(version, {**{path: folder / path for path in paths - {own}}, _CARD: card}, notes)


def _text(own: Path) -> tuple[str, tuple[str, ...]]:
    if own.stat().st_size > _LONGEST_CARD:
        raise UsageError(
            f"{own.name}: {own.stat().st_size} bytes, a model card may have {_LONGEST_CARD}",
            hint="push the version again with a shorter one",
        )
    content = own.read_bytes()
    try:
        return content.decode(), ()
    except UnicodeDecodeError:
        return content.decode(errors="replace"), (f"{_CARD} is not UTF-8: what cannot be read is replaced on the Hub",)


def _head(api: HfApi, place: HubPlace) -> HubHead | None:
    """None where there is no such repo yet; a missing branch of one that is there is an error."""
    try:
        found = head(api, replace(place, revision=None))
    except NotFoundError:
        if place.revision not in (None, "main"):
            raise
        return None
    return found if place.revision is None else head(api, place)


def _files(api: HfApi, place: HubPlace) -> dict[str, HubFile]:
    try:
        return files_at(api, place)
    except NotFoundError:
        return {}  # the repo and the commit are there, so it is the folder that is not


def _plan(cargo: _Cargo, there: Mapping[str, HubFile]) -> _Plan:
    ours = cargo.files
    theirs = {*select_files(there).included, *({PICKLE_NAME} & there.keys())}
    return _Plan(
        added=tuple(sorted(ours.keys() - there.keys())),
        replaced=tuple(sorted(path for path in ours.keys() & there.keys() if not _same(ours[path], there[path].oid))),
        removed=tuple(sorted(theirs - ours.keys())),
    )


def _same(content: Path | bytes, oid: Oid) -> bool:
    if isinstance(content, bytes):
        return oid.of_bytes(content) == oid
    with content.open("rb") as file:
        return oid.of_file(file.fileno()) == oid


def _check(request: SendRequest, plan: _Plan, found: HubHead | None) -> None:
    changed = [*plan.replaced, *plan.removed]
    if changed and not request.force:
        named = ", ".join(changed[:_SHOWN]) + (" …" if len(changed) > _SHOWN else "")
        raise ConflictError(
            f"{request.place}: holds something else: {named}", hint="--force replaces the adapter there"
        )
    if found is not None and not found.private and not request.public and not plan.empty:
        raise ConflictError(f"{request.place}: everyone can read that repo", hint="--public if that is meant")


def _make(api: HfApi, request: SendRequest, cargo: _Cargo) -> tuple[HubHead, _Plan]:
    """The new repo, and what is to change in it: the Hub puts files of its own into one."""
    repo = HubPlace(request.place.repo)
    asked(str(repo), lambda: api.create_repo(repo.repo, private=not request.public, repo_type="model", exist_ok=True))
    found = head(api, HubPlace(repo.repo, request.place.folder))
    plan = _plan(cargo, _files(api, found.place))
    _check(request, plan, found)
    return found, plan


def _commit(api: HfApi, request: SendRequest, cargo: _Cargo, plan: _Plan, found: HubHead) -> HubPlace:
    """The place at the new commit, whose files are read back by hash. A lost answer is looked for before it is told."""
    try:
        with asking(str(request.place)):
            info = api.create_commit(
                request.place.repo,
                _operations(request.place, cargo, plan),
                commit_message=f"Upload {cargo.version.ref}",
                commit_description=cargo.version.digest,
                revision=request.place.revision,
                parent_commit=found.place.revision,
                repo_type="model",
            )
        made = replace(request.place, revision=info.oid)
    except UnavailableError as error:
        there = _found_again(api, request, cargo, found)
        if there is None:
            raise error from None
        made = there
    _verify(cargo, made, _files(api, made))
    return made


def _found_again(api: HfApi, request: SendRequest, cargo: _Cargo, before: HubHead) -> HubPlace | None:
    """Where the commit is although its answer was lost; None where there is none, UnavailableError if nobody knows."""
    try:
        now = head(api, request.place).place
        made = now.revision != before.place.revision and _plan(cargo, _files(api, now)).empty
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}; whether the commit was made is unknown", hint="run the command again: it looks first"
        ) from None
    return now if made else None


def _operations(place: HubPlace, cargo: _Cargo, plan: _Plan) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    for path in (*plan.added, *plan.replaced):
        yield CommitOperationAdd(path_in_repo=place.within(path), path_or_fileobj=cargo.files[path])
    for path in plan.removed:
        yield CommitOperationDelete(path_in_repo=place.within(path), is_folder=False)


def _verify(cargo: _Cargo, place: HubPlace, there: Mapping[str, HubFile]) -> None:
    for path, content in cargo.files.items():
        listed = there.get(path)
        if listed is None or not _same(content, listed.oid):
            found = "no such file" if listed is None else str(listed.oid)
            raise CorruptError(f"{place}: {path}", expected="the bytes that were sent", actual=found)


def _result(request: SendRequest, cargo: _Cargo, plan: _Plan, found: HubHead | None, *, created: bool) -> SentResult:
    notes = list(cargo.notes)
    if plan.empty and found is not None and not created:
        notes.append(f"unchanged: {found.place} holds this content")
    if found is not None and found.private and request.public:
        notes.append(f"{HubPlace(request.place.repo)} is private and stays so")
    return SentResult(
        ref=cargo.version.ref,
        digest=cargo.version.digest,
        path=None if found is None else str(found.place),
        created=created,
        private=not request.public if found is None else found.private,
        dry_run=request.dry_run,
        added=plan.added,
        replaced=plan.replaced,
        removed=plan.removed,
        notes=tuple(notes),
    )
