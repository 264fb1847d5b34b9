"""What is known of artifacts: listed, shown, forgotten, verified."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from registry.artifacts import rows, stored
from registry.artifacts.contents import difference, strangers
from registry.artifacts.results import ArtifactCheck, ArtifactDetail, ArtifactInfo, RemovedArtifact
from registry.catalog.audit import note
from registry.errors import CorruptError, NotFoundError
from registry.files.disk import discard_tree, reaching, sync_folders
from registry.models import Blob, LeaseBlob

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.artifacts.contents import Contents
    from registry.artifacts.places import Place
    from registry.artifacts.rows import Known, Made
    from registry.handle import Handle


def list_artifacts(handle: Handle) -> tuple[ArtifactInfo, ...]:
    """All artifacts in the order in which they were made; where they lie is looked at, nothing is hashed."""
    with handle.database.reading() as session:
        found = [(one, _stored_bytes(session, one)) for one in rows.listed(session)]
    return tuple(_info(one, size) for one, size in found)


def show_artifact(handle: Handle, text: str) -> ArtifactDetail:
    """Everything about the artifact that a number, a digest or a folder names."""
    with handle.database.reading() as session:
        known = rows.get(session, text, path=rows.path_of(text))
        size = _stored_bytes(session, known)
    files = tuple({"path": one.path, "size": one.size, "tensors": len(_named(one.pieces))} for one in known.contents)
    tensors = {piece.name: piece.sha256 for one in known.contents for piece in _named(one.pieces)}
    return ArtifactDetail(_info(known, size), known.recipe, files, tensors, known.report)


def remove_artifact(handle: Handle, text: str, *, files: bool = False) -> RemovedArtifact:
    """Forget an artifact, so that the next gc frees what the store keeps of it alone. With `files`, its folders on this
    host go too, where they hold nothing but its files as they were.
    """
    actor = handle.settings.actor

    with handle.database.reading() as session:
        known = rows.get(session, text, path=rows.path_of(text))
    told = {place.path: _delete(place, known) if files else "not asked for" for place in known.places}

    def remove(session: Session) -> None:
        now = rows.get(session, str(known.id))
        stored.let_go(session, now)
        note(session, "rm", f"artifact {known.id}", actor=actor, recipe=known.recipe_digest)
        rows.change(
            session,
            known.recipe_digest,
            lambda one: replace(one, places=(), stored=None, lease_id=None, removed=True),
        )

    handle.database.write(
        remove
    )  # last: what is killed before it, or finds a folder that it may not delete, can be run again
    deleted = tuple(path for path, reason in told.items() if not reason)
    kept = {path: reason for path, reason in told.items() if reason}
    return RemovedArtifact(known.id, known.recipe_digest, deleted, kept)


def verify_artifact(handle: Handle, text: str) -> ArtifactCheck:
    """Hash every byte of an artifact where it lies; CorruptError names the first file or tensor that is wrong. A folder
    that the catalog does not know is held against what it says of itself.
    """
    path = rows.path_of(text)
    known = _known_or_folder(handle, text, path)
    if known is None:
        assert path is not None
        from registry.artifacts.unknown import verify_unknown  # a list of artifacts needs none of what it imports

        return verify_unknown(Path(path))
    place = _lying(known) if path is None else Path(path)
    wrong = difference(place, known.contents)
    if wrong is not None:
        wrong.hint = f"adapters artifacts rebuild {known.id}"
        raise wrong
    tensors = sum(len(_named(one.pieces)) for one in known.contents)
    return ArtifactCheck(known.id, place, known.digest, len(known.contents), tensors, known.report)


def _known_or_folder(handle: Handle, text: str, path: str | None) -> Known | None:
    try:
        with handle.database.reading() as session:
            return rows.get(session, text, path=path)
    except NotFoundError:
        if path is None or not os.path.isdir(path):  # noqa: PTH112 (it never raises)
            raise
    return None


def agree(before: Known, made: Made, where: Path) -> None:
    """CorruptError, naming the first tensor or file that differs, unless a build gave what it gave before; what was
    built in `where` is then removed.
    """
    wrong = _first_difference(before.contents, made.contents)
    if wrong is None:
        return
    with reaching(where):
        discard_tree(where)
        sync_folders([where.parent])
    subject, expected, actual = wrong
    hint = f"the recipe's tools were {_tools(before.recipe)}" if before.recipe.get("tool") else None
    raise CorruptError(f"artifact {before.id}: built again, {subject}", expected=expected, actual=actual, hint=hint)


def _first_difference(before: Contents, after: Contents) -> tuple[str, str, str] | None:
    new = {one.path: one for one in after}
    for old in before:
        if old.path not in new:
            return old.path, "a file", "none"
        pieces = {piece.name: piece for piece in new.pop(old.path).pieces}
        for piece in old.pieces:
            found = pieces.get(piece.name)
            if found is None or found.sha256 != piece.sha256:
                subject = f"{old.path}: tensor {piece.name}" if piece.name else old.path
                return subject, piece.sha256, "none" if found is None else found.sha256
    return next(((path, "no such file", "one") for path in new), None)


def _tools(recipe: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in recipe["tool"].items())


def _lying(known: Known) -> Path:
    for place in known.places:
        if os.path.isdir(place.path):  # noqa: PTH112 (it never raises)
            return Path(place.path)
    raise NotFoundError(
        f"artifact {known.id}: none of its folders is here", hint=f"adapters artifacts rebuild {known.id}"
    )


def _delete(place: Place, known: Known) -> str:
    """Why the folder stays; empty where it is gone."""
    folder = Path(place.path)
    if not place.here or not os.path.lexists(folder):
        return place.state
    if folder.is_symlink():
        return "is a link by now"
    if not folder.is_dir() or place.edited:
        return "changed"
    if more := strangers(folder, known.contents):
        return f"also holds {more[0]}"
    with reaching(folder):
        discard_tree(folder)
        sync_folders([folder.parent])
    return ""


def _info(known: Known, stored_bytes: int) -> ArtifactInfo:
    base = known.origins.get("base")
    return ArtifactInfo(
        artifact=known.id,
        recipe_digest=known.recipe_digest,
        digest=known.digest,
        kind=known.kind,
        base=None if base is None else base["name"],
        parents=tuple(known.origins.get("parents", ())),
        size=known.size,
        places=tuple(place.told() for place in known.places),
        stored=known.stored is not None,
        stored_bytes=stored_bytes,
        actor=known.actor,
        created_at=known.created_at,
    )


def _stored_bytes(session: Session, known: Known) -> int:
    if known.lease_id is None:
        return 0
    query = select(func.sum(Blob.size)).join(LeaseBlob, LeaseBlob.digest == Blob.digest)
    return int(session.scalar(query.where(LeaseBlob.lease_id == known.lease_id)) or 0)


def _named(pieces: Any) -> list[Any]:
    return [piece for piece in pieces if piece.name]
