"""What a check asks of a catalog: bases by name, and versions by what is kept of them or by their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Licensing
from registry import bases
from registry.candidates import Candidate
from registry.errors import NotFoundError
from registry.examine import examine, named_base
from registry.pull import pull
from registry.resolve import resolve

if TYPE_CHECKING:
    from engine.format.facts import BaseFacts
    from registry.candidates import GivenBase
    from registry.handle import Handle


class StoredCatalog:
    """A registry's catalog; a class because it keeps bases that it has read."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def base(self, name: str) -> BaseFacts:
        """A base by any of its names; NotFoundError where it is not known."""
        found = self.known_base(name)
        if found is None:
            raise NotFoundError(f"base {name!r} is not known", hint="adapters base add PATH --name NAME")
        return found

    def known_base(self, name: str) -> BaseFacts | None:
        """The same, None where it is not known."""
        with self._handle.database.reading() as session:
            row = bases.find(session, name)
            return None if row is None else bases.facts_of(row)

    def candidate(self, ref: str, given: GivenBase | None) -> Candidate:
        """The version that a reference names."""
        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            version = resolve(session, wanted)
        # Whoever said it: the licence, and the base it was pushed for, which need not be the one in its config.
        licensing = Licensing(version.licence, None if given is None else given.licence)
        folder = pull(self._handle, wanted).path
        examined = examine(folder)
        name = version.base_name or named_base(examined.facts)
        base = given.facts if given is not None else None if name is None else self.known_base(name)
        return Candidate(
            target=ref,
            facts=examined.facts,
            values=examined.values,
            files=tuple(sorted(path.name for path in folder.iterdir())),
            base=base,
            base_known=base is not None,
            base_name=name,
            licensing=licensing,
            digest=version.digest,
            version_id=version.id,
        )
