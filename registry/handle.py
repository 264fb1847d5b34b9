"""What every verb starts from: places, an open database whose schema was checked, and texts parsed into references."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from registry.browse.summary import summaries
from registry.catalog.database import Database
from registry.catalog.schema import prepare
from registry.files.newplace import new_place
from registry.records.draft import Parent
from registry.records.recordrows import keep_record
from registry.results import RegistryStatus
from registry.store.stores import open_store
from registry.values.refs import is_path, parse_name, parse_ref
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.orm import Session

    from registry.catalog.schema import SchemaState
    from registry.models import Version
    from registry.records.draft import Relation
    from registry.results import VersionInfo
    from registry.settings import Settings
    from registry.values.refs import Name, Ref


class Handle:
    """One registry's database and store. A class because it remembers that the schema was checked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings, lambda: self.database)
        self.unchecked = Database(settings.resolved_database_url)
        self.schema: SchemaState | None = None

    @property
    def database(self) -> Database:
        """The database, created where it is empty; SchemaError where this client cannot use it."""
        if self.schema is None:
            self.schema = prepare(self.unchecked)
        return self.unchecked

    def ref(self, text: str) -> Ref:
        """A reference, a bare name in the default namespace."""
        return parse_ref(text, namespace=self.settings.namespace)

    def name(self, text: str) -> Name:
        """A name, a bare one in the default namespace."""
        return parse_name(text, namespace=self.settings.namespace)

    def base_name(self, text: str) -> str:
        """A base's name; a path as `base add` remembers it."""
        return os.path.abspath(Path(text).expanduser()) if is_path(text) else text  # noqa: PTH100 (follows no links)

    def new_place(self, to: str | Path) -> Path:
        """Where a new folder may come, absolute; UsageError inside the registry's own."""
        return new_place(to, (self.settings.home, self.settings.pulled))

    def parents(self, refs: Iterable[str], relation: Relation) -> tuple[Parent, ...]:
        """The versions that a push names as its parents; deleted ones are still parents."""
        wanted = [self.ref(text) for text in refs]
        if not wanted:
            return ()
        with self.database.reading() as session:
            versions = [resolve(session, ref, deleted=True) for ref in wanted]
            return tuple(Parent(one.digest, relation, None, one.id) for one in versions)

    def changed(self, work: Callable[[Session], int]) -> VersionInfo:
        """Run a change that returns a version's row id, in one transaction; the version after it."""
        return self.database.write(lambda session: summaries(session, [work(session)])[0])

    def recorded(self, work: Callable[[Session], Version]) -> VersionInfo:
        """Like `changed`, for a change that the version's record tells too."""

        def change(session: Session) -> int:
            version = work(session)
            keep_record(session, version, self.store.put_bytes)
            return version.id

        return self.changed(change)

    def labelled(self, text: str, work: Callable[[Session, Version], object]) -> VersionInfo:
        """Like `changed`, on the version that a reference names."""
        wanted = self.ref(text)

        def change(session: Session) -> int:
            version = resolve(session, wanted)
            work(session, version)
            session.flush()
            return version.id

        return self.changed(change)

    def status(self, state: SchemaState) -> RegistryStatus:
        """What `init` and `migrate` report."""
        return RegistryStatus(
            database=self.unchecked.place,
            store=self.store.label,
            revision=state.revision,
            created=state.created,
            upgraded_from=state.upgraded_from,
            backup=None if state.backup is None else str(state.backup),
        )
