"""Rows for blobs that the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.catalog import leases
from registry.catalog.database import insert_into
from registry.models import Blob

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from registry.results import FileEntry


def know_blobs(session: Session, entries: Iterable[FileEntry]) -> None:
    """New ones inserted, known ones live. Always in order of digest."""
    sizes = {entry.sha256: entry.size for entry in entries}
    rows = [{"digest": digest, "size": size} for digest, size in sorted(sizes.items())]
    session.execute(insert_into(session, Blob).on_conflict_do_nothing(index_elements=["digest"]), rows)
    leases.keep(session, sizes)
