"""The catalog's row of an artifact: one per recipe, with its contents, places and what the store keeps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry.artifacts.contents import Content, Contents, contents_digest
from registry.artifacts.places import Place, with_place, without
from registry.catalog.audit import note
from registry.catalog.clock import now
from registry.catalog.database import insert_into
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.models import Artifact, Recipe
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.records.draft import RecipeDraft

_SHORTEST = len("sha256:") + 12
Layout = dict[str, list[list[Any]]]
"""What the store keeps of each file, in its order: digest and bytes of a blob."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished artifact before it has a row. `origins` name what it was made from: paths, references."""

    recipe: RecipeDraft
    contents: Contents
    report: Mapping[str, Any]
    origins: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """A row. `stored` is where its bytes are in the store, None where they are not kept there."""

    id: int
    recipe_digest: str
    recipe: Mapping[str, Any]
    kind: str
    digest: str
    size: int
    contents: Contents
    report: Mapping[str, Any]
    origins: Mapping[str, Any]
    places: tuple[Place, ...]
    stored: Layout | None
    lease_id: str | None
    removed: bool
    actor: str | None
    created_at: datetime
    notes: tuple[str, ...] = field(default=())


def find(session: Session, recipe_digest: str) -> Known | None:
    """The artifact of a recipe, a removed one too."""
    row = session.execute(_rows().where(Recipe.digest == recipe_digest)).one_or_none()
    return None if row is None else _known(*row)


def get(session: Session, text: str, *, path: str | None = None) -> Known:
    """The artifact that a number, a digest (of its recipe or its bytes) or a folder names, unless it was removed."""
    if path is not None:
        every = listed(session)
        found = [one for one in every if any(place.path == path for place in one.places)] or _linked(every, path)
    elif text.isascii() and text.isdigit() and len(text) < 19:
        found = [_known(*row) for row in session.execute(_alive().where(Artifact.id == int(text)))]
    elif text.startswith("sha256:") and len(text) >= _SHORTEST:
        either = Recipe.digest.startswith(text, autoescape=True) | Artifact.digest.startswith(text, autoescape=True)
        found = [_known(*row) for row in session.execute(_alive().where(either))]
    else:
        raise UsageError(
            f"artifact {text[:120]!r}: expected its number, sha256: and 12 or more hex digits, or a path",
            hint="adapters artifacts list; a path starts with /, ./, ../ or ~",
        )
    if not found:
        raise NotFoundError(f"artifact {path or text}: there is none", hint="adapters artifacts list")
    if len(found) > 1:
        numbers = ", ".join(str(one.id) for one in found)
        raise ConflictError(f"artifact {text}: several begin like this: {numbers}", hint="adapters artifacts list")
    return found[0]


def _linked(every: Iterable[Known], path: str) -> list[Known]:
    """Those that lie where links on the way lead."""
    real = os.path.realpath(path)
    return [one for one in every if any(place.here and os.path.realpath(place.path) == real for place in one.places)]


def listed(session: Session) -> list[Known]:
    """All that were not removed, in the order in which they were made."""
    return [_known(*row) for row in session.execute(_alive().order_by(Artifact.id))]


def record(session: Session, made: Made, place: Place, *, actor: str | None) -> Known:
    """The row of a finished artifact, new or brought back, with this place; the contents of one that is there stay."""
    row = insert_into(session, Recipe).values(
        digest=made.recipe.digest, method=made.recipe.method, body=made.recipe.text
    )
    session.execute(row.on_conflict_do_nothing(index_elements=["digest"]))
    recipe_id = session.scalars(select(Recipe.id).where(Recipe.digest == made.recipe.digest)).one()
    digest = contents_digest(made.contents)
    values = {
        "recipe_id": recipe_id,
        "kind": str(made.recipe.body["kind"]),
        "digest": digest,
        "size": sum(one.size for one in made.contents),
        "places": "[]",
        "body": _body(made),
        "actor": actor,
    }
    session.execute(insert_into(session, Artifact).values(values).on_conflict_do_nothing(index_elements=["recipe_id"]))
    known = change(session, made.recipe.digest, lambda one: with_place_of(one, place))
    note(session, "materialize", f"artifact {known.id}", actor=actor, recipe=made.recipe.digest, digest=digest)
    return known


def with_place_of(known: Known, place: Place) -> Known:
    """The artifact with one more place; it is no longer removed."""
    return replace(known, places=tuple(with_place(known.places, place)), removed=False)


def change(session: Session, recipe_digest: str, work: Callable[[Known], Known]) -> Known:
    """Change places, what is stored, and whether it is removed, of a row that is there; locked until the end."""
    query = _rows().where(Recipe.digest == recipe_digest).with_for_update(of=Artifact)
    row, recipe = session.execute(query).one()
    before = _known(row, recipe)
    after = work(before)
    row.places = json.dumps([one.as_json() for one in after.places])
    row.lease_id = after.lease_id
    if after.stored != before.stored:
        row.body = json.dumps({**json.loads(row.body), "stored": after.stored})
    if after.removed != before.removed:
        row.removed_at = now(session) if after.removed else None
    session.flush()
    return after


def forget_place(database: Database, known: Known, path: str) -> None:
    """A folder of this host no longer counts as one of the artifact's."""

    def forget(one: Known) -> Known:
        return replace(one, places=tuple(without(one.places, path)))

    database.write(lambda session: change(session, known.recipe_digest, forget))


def _rows() -> Select[Artifact, Recipe]:
    return select(Artifact, Recipe).join(Recipe, Recipe.id == Artifact.recipe_id)


def _alive() -> Select[Artifact, Recipe]:
    return _rows().where(Artifact.removed_at.is_(None))


def _body(made: Made) -> str:
    files = [one.as_json() for one in made.contents]
    content = {"schema": 1, "files": files, "origins": made.origins, "report": made.report, "stored": None}
    return json.dumps(content, ensure_ascii=True, separators=(",", ":"))


def _known(row: Artifact, recipe: Recipe) -> Known:
    body = json.loads(row.body)
    return Known(
        id=row.id,
        recipe_digest=recipe.digest,
        recipe=json.loads(recipe.body),
        kind=row.kind,
        digest=row.digest,
        size=row.size,
        contents=tuple(Content.of_json(one) for one in body["files"]),
        report=body["report"],
        origins=body["origins"],
        places=tuple(Place.of_json(one) for one in json.loads(row.places)),
        stored=body["stored"],
        lease_id=row.lease_id,
        removed=row.removed_at is not None,
        actor=row.actor,
        created_at=row.created_at,
    )


def path_of(text: str) -> str | None:
    """The absolute path that a text is, None for a number or a digest."""
    return os.path.abspath(Path(text).expanduser()) if is_path(text) else None  # noqa: PTH100 (Path.absolute keeps `..`)
