"""Re-hash a version where it lies, and find the versions that hold a file someone has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from engine.errors import HeaderError
from engine.format.files.digest import tensors_digest
from engine.format.files.header import read_header
from registry.errors import IntakeError, NotFoundError
from registry.files.disk import NotRegularError, reading
from registry.files.transfer import hash_file
from registry.models import File, Version
from registry.results import VerifyResult

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.results import FileEntry
    from registry.store.blobs import BlobStore


def verify_files(store: BlobStore, ref: str, digest: str, files: tuple[FileEntry, ...]) -> VerifyResult:
    """Hash every blob of a version. CorruptError (exit 6) names the first that is wrong or missing."""
    store.read_bytes(digest)
    sizes = [store.verify(entry.sha256).size for entry in files]
    return VerifyResult(ref=ref, digest=digest, files=len(files), bytes=sum(sizes))


def file_digests(path: Path) -> tuple[str, str | None]:
    """The sha256 of a file, and its tensors digest where it reads as safetensors.

    HeaderError where its name says that it is safetensors and it cannot be read as that.
    """
    try:
        with reading(path) as descriptor:
            digest = hash_file(descriptor).digest
    except NotRegularError:
        raise IntakeError(f"{path}: not a regular file") from None
    except OSError as error:
        raise IntakeError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        return digest, tensors_digest(path, read_header(path))
    except HeaderError:
        if path.suffix == ".safetensors":
            raise
        return digest, None


def versions_holding(session: Session, digest: str, tensors: str | None) -> tuple[int, ...]:
    """Row ids of versions that hold these bytes or these tensors, newest first; deleted ones after the others, and
    not once gc freed their files.

    NotFoundError where no version does.
    """
    holders = select(File.version_id).where(File.sha256 == digest)
    same = or_(Version.id.in_(holders), Version.digest == digest)
    if tensors is not None:
        same = or_(same, Version.tensors_digest == tensors)
    held = select(Version.id).where(same, Version.freed_at.is_(None))
    found = tuple(session.scalars(held.order_by(Version.deleted_at.is_not(None), Version.id.desc())))
    if not found:
        raise NotFoundError(f"no version holds {digest}", hint="adapters push FOLDER NAME")
    return found
