"""Pull: a reference becomes a verified folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.models import Adapter, File, Version
from registry.pulls.copies import copy_from_cache, copy_out
from registry.pulls.entry import files_of_entry, known_files
from registry.pulls.pulled import ensure_pulled, find_pulled
from registry.results import FileEntry, PullResult
from registry.values.progress import silent, unheard
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.handle import Handle
    from registry.values.progress import Notice, Progress
    from registry.values.refs import Ref


def files_of(session: Session, version: Version) -> tuple[FileEntry, ...]:
    """The files of a version by path; NotFoundError where gc freed them."""
    query = select(File.path, File.sha256, File.size, File.blob_digest)
    rows = session.execute(query.where(File.version_id == version.id, File.role == "file").order_by(File.path)).all()
    if version.freed_at is not None or any(row.blob_digest is None for row in rows):
        name = session.execute(select(Adapter.namespace, Adapter.name).where(Adapter.id == version.adapter_id)).one()
        raise NotFoundError(
            f"{'/'.join(name)}@{version.number}: gc freed its files after it was deleted", hint="push them again"
        )
    return tuple(FileEntry(row.path, row.sha256, row.size) for row in rows)


def pull(
    handle: Handle,
    ref: Ref,
    *,
    to: Path | None = None,
    link: bool = False,
    progress: Progress = silent,
    notice: Notice = unheard,
) -> PullResult:
    """Bring a version's files to `to` (with `link`, as links into the cache where the system allows them), or to the
    immutable folder that belongs to its digest.

    With database or store down, a reference that names a digest is served from what was pulled before (P8).
    """
    pulled = handle.settings.pulled
    if link and to is None:
        raise UsageError("links need a folder to lie in", hint="adapters pull REF --to DIR --link")
    try:
        with handle.database.reading() as session:
            version = resolve(session, ref)
            digest, found = version.digest, f"{ref.name}@{version.number}"
            files = known_files(pulled, digest) or files_of(session, version)
        size = sum(entry.size for entry in files)
        progress(f"pulling {found}", 0, size)
        if to is not None:
            copy_out(handle.store, digest, files, pulled, to, link=link, notice=notice)
            place = to
        else:
            place = ensure_pulled(handle.store, digest, files, pulled, notice=notice)
        progress(f"pulling {found}", size, size)
        return PullResult(found, digest, place)
    except UnavailableError:
        known = None if ref.digest is None else find_pulled(pulled, ref.digest)
        if known is None:
            raise
        if to is not None:
            copy_from_cache(known, files_of_entry(known), to, link=link)
        return PullResult(str(ref), f"sha256:{known.name}", to or known)
