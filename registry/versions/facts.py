"""What a version was first pushed with, when the same content is pushed again: it stays, and only gaps are filled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.catalog.database import insert_into
from registry.models import Document
from registry.origins.provenance import FIELDS, FLAG
from registry.values.strictjson import canonical_json

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.models import Version
    from registry.records.draft import VersionDraft

_DOCUMENT = "provenance"


@dataclass(frozen=True, slots=True)
class Filled:
    """`kept` names what was said in vain; `more` tells whether a gap was filled that the record speaks of."""

    kept: tuple[str, ...] = ()
    more: bool = False


def fill(session: Session, version: Version, draft: VersionDraft) -> Filled:
    """Give a version the base, and what was said by flag, where it has none.

    What the environment says is of another run, so it fills nothing and is no loss.
    """
    based = version.base_id is None and draft.base_id is not None
    if based:
        version.base_id = draft.base_id
    said = [name for name in FIELDS if draft.sources.get(name) == FLAG]
    gaps = {name: getattr(draft, name) for name in said if getattr(version, name) is None}
    for name, value in gaps.items():
        setattr(version, name, value)
    if gaps:
        _name_sources(session, version, gaps)
    kept = [name for name in said if getattr(version, name) != getattr(draft, name)]
    return Filled((*_words_kept(version, draft), *kept), bool(based or gaps))


def _words_kept(version: Version, draft: VersionDraft) -> tuple[str, ...]:
    message = draft.message is not None and draft.message != version.message
    ours, theirs = (one.base_id or one.base_name for one in (version, draft))
    return tuple(name for name, lost in (("message", message), ("base", draft.base_given and ours != theirs)) if lost)


def _name_sources(session: Session, version: Version, gaps: dict[str, str]) -> None:
    mine = Document.version_id == version.id, Document.kind == _DOCUMENT
    body = session.scalar(select(Document.body).where(*mine))
    sources = ({} if body is None else json.loads(body)["sources"]) | dict.fromkeys(gaps, FLAG)
    text = canonical_json({"sources": sources}).decode()
    row = insert_into(session, Document).values(version_id=version.id, kind=_DOCUMENT, body=text)
    session.execute(row.on_conflict_do_update(index_elements=["version_id", "kind"], set_={"body": text}))
