"""A reference becomes a version row."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from registry.catalog.newest import IS_NEWEST
from registry.errors import ConflictError, NotFoundError
from registry.models import Adapter, Alias, Version

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.values.refs import Name, Ref

_NAMES_TO_COMPARE = 2000
# Made once: making a statement takes longer than running it. One statement each: most of the time is the way there.
_NAMED = (Adapter.namespace == bindparam("namespace"), Adapter.name == bindparam("name"))
_ADAPTER = select(Adapter).where(*_NAMED)
_OF_ADAPTER = select(Version).join(Adapter, Adapter.id == Version.adapter_id).where(*_NAMED)
_NEWEST = _OF_ADAPTER.where(IS_NEWEST)
_NUMBERED = _OF_ADAPTER.where(Version.number == bindparam("number"))
_ALIASED = _OF_ADAPTER.join(Alias, Alias.version_id == Version.id).where(
    Alias.adapter_id == Adapter.id, Alias.name == bindparam("alias")
)
# "g" follows the last hex digit, so the range is exactly the digests that start like this.
_DIGESTED = _OF_ADAPTER.where(Version.digest >= bindparam("low"), Version.digest < bindparam("low") + "g")


def resolve(session: Session, ref: Ref, *, deleted: bool = False) -> Version:
    """The version that a reference names; deleted ones only where asked for.

    Raises NotFoundError naming what there is instead, ConflictError for a digest prefix that fits several versions
    and for a pin that does not hold.
    """
    if ref.number is None and ref.alias is None and ref.digest is not None and not ref.latest:
        return _by_digest(session, ref, ref.digest, deleted=deleted)
    version = _pick(session, ref)
    if version is None or (version.deleted_at is not None and not deleted):
        raise _missing(session, ref, version)
    if ref.digest is not None and not version.digest.startswith(ref.digest):
        raise ConflictError(f"{ref}: {ref.name}@{version.number} has digest {version.digest}, not the pinned one")
    return version


def find_adapter(session: Session, name: Name) -> Adapter:
    """The adapter of a name. NotFoundError names the nearest names there are."""
    adapter = session.scalar(_ADAPTER, _parts(name))
    if adapter is None:
        raise NotFoundError(f"{name}: no adapter of that name{_nearest(session, name)}", hint="adapters list")
    return adapter


def newest_of(session: Session, name: Name) -> Version | None:
    """The version that `latest` means."""
    return session.scalar(_NEWEST, _parts(name))


def numbered(session: Session, name: Name, number: int) -> Version | None:
    """The version of a number, deleted or not."""
    return session.scalar(_NUMBERED, {**_parts(name), "number": number})


def _pick(session: Session, ref: Ref) -> Version | None:
    if ref.number is not None:
        return numbered(session, ref.name, ref.number)
    if ref.alias is not None:
        return session.scalar(_ALIASED, {**_parts(ref.name), "alias": ref.alias})
    return newest_of(session, ref.name)


def _by_digest(session: Session, ref: Ref, prefix: str, *, deleted: bool) -> Version:
    values = {**_parts(ref.name), "low": prefix}
    query = _DIGESTED if deleted else _DIGESTED.where(Version.deleted_at.is_(None))
    found = session.scalars(query.order_by(Version.number).limit(3), values).all()
    if len(found) > 1:
        numbers = ", ".join(f"{ref.name}@{version.number}" for version in found)
        raise ConflictError(f"{ref}: several versions have a digest that starts like this: {numbers}")
    if not found:
        raise _missing(session, ref, session.scalar(_DIGESTED.limit(1), values))
    return found[0]


def _parts(name: Name) -> dict[str, str]:
    return {"namespace": name.namespace, "name": name.name}


def _missing(session: Session, ref: Ref, found: Version | None) -> NotFoundError:
    if found is not None and found.freed_at is not None:
        return NotFoundError(f"{ref}: version {found.number} is deleted and gc freed its files", hint="push them again")
    if found is not None:
        again = f"{ref.name}@{found.number}"
        return NotFoundError(f"{ref}: version {found.number} is deleted", hint=f"adapters undelete {again}")
    adapter = find_adapter(session, ref.name)
    newest = newest_of(session, ref.name)
    if newest is None:
        return NotFoundError(f"{ref}: every version of {ref.name} is deleted", hint=f"adapters log {ref.name}")
    there = f"the newest version is {ref.name}@{newest.number}"
    if ref.alias is not None:
        names = session.scalars(select(Alias.name).where(Alias.adapter_id == adapter.id).order_by(Alias.name).limit(8))
        known = ", ".join(names)
        there = f"aliases: {known}; {there}" if known else f"it has no aliases; {there}"
        return NotFoundError(f"{ref}: no alias {ref.alias}; {there}")
    what = f"no version {ref.number}" if ref.number is not None else f"no version with digest {ref.digest}"
    return NotFoundError(f"{ref}: {what}; {there}")


def _nearest(session: Session, name: Name) -> str:
    rows = session.execute(select(Adapter.namespace, Adapter.name).order_by(Adapter.id.desc()).limit(_NAMES_TO_COMPARE))
    near = difflib.get_close_matches(str(name), [f"{space}/{own}" for space, own in rows], n=3)
    return f"; nearest: {', '.join(near)}" if near else ""
