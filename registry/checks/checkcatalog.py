"""What a check asks of a catalog: bases by name, and versions by what is kept of them, else by their files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.compat.rule import Licensing
from registry.basemodels import bases
from registry.basemodels.kin import CATALOG_RULES, MOVED, base_doubts, twins
from registry.catalog.among import among
from registry.catalog.database import insert_into
from registry.checks.candidates import Candidate
from registry.checks.lock import Pin
from registry.errors import NotFoundError, UnavailableError
from registry.findings.examine import examine, named_base
from registry.findings.keptchecks import base_ids, keep, kept_checks, same_answer
from registry.findings.rulesets import base_digest
from registry.findings.storedfacts import KIND, NEEDED, SharedFacts, facts_document, read_stored
from registry.findings.verdicts import Asked
from registry.models import Adapter, Base, Document, File, Version
from registry.pulls.pull import pull
from registry.values.refs import parse_ref
from registry.values.strictjson import canonical_json
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts
    from registry.checks.candidates import GivenBase
    from registry.findings.verdicts import Verdict
    from registry.handle import Handle


_ASKED = tuple(Asked(rule.id, rule.summary) for rule in CATALOG_RULES)


@dataclass(frozen=True, slots=True)
class _Row:
    """A version as the catalog has it. `base` is the row of the base that it is judged against."""

    id: int
    ref: str
    digest: str
    licence: str | None
    base_name: str | None
    base: int | None
    files: tuple[str, ...]
    documents: dict[str, str]


class StoredCatalog:
    """A registry's catalog; a class because it keeps the bases that it has read, and what adapters share."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._bases: dict[int, BaseFacts] = {}
        self._doubted: dict[tuple[int, str, str | None, str | None], tuple[Finding, ...]] = {}
        self._alike = SharedFacts()

    def base(self, name: str) -> BaseFacts:
        """A base by any of its names; NotFoundError where it is not known."""
        found = self.known_base(name)
        if found is None:
            raise NotFoundError(f"base {name!r} is not known", hint="adapters base add PATH --name NAME")
        return found

    def known_base(self, name: str) -> BaseFacts | None:
        """The same, None where it is not known."""
        with self._handle.database.reading() as session:
            found = bases.find_id(session, name)
            return None if found is None else self._facts(session, found)

    def candidate(self, ref: str, given: GivenBase | None) -> Candidate:
        """The version that a reference names."""
        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            found = resolve(session, wanted).id
            related = tuple(twins(session, found))
        row = self._looked_up([found])[0]
        facts, values = read_stored(row.documents, self._folder(row)) or self._pulled(row)
        one = self._judged(row, facts, values, given, ref)
        return replace(one, doubts=(*one.doubts, *related))

    def pin(self, ref: str) -> Pin:
        """What a reference means now."""
        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            version = resolve(session, wanted)
            base = base_ids(session, [version.id])[version.id]
            digest = None if base is None else base_digest(self._facts(session, base))
        return Pin(ref, f"{wanted.name}@{version.number}", version.digest, digest)

    def remember(self, answers: Iterable[tuple[int, Verdict]]) -> None:
        """Keep what was said of versions, where it is news. A catalog that takes no writes still answers."""
        told = list(answers)
        with self._handle.database.reading() as session:
            kept = kept_checks(session, sorted({version for version, _ in told}))
        news = [(version, verdict) for version, verdict in told if not same_answer(kept, version, verdict)]
        if news:
            with suppress(UnavailableError):
                self._handle.database.write(lambda session: keep(session, news))

    def candidates(self, ids: Sequence[int]) -> Iterator[Candidate]:
        """Versions by their ids, each by its exact reference; the facts name no folder, and those that differ in values
        alone have the same.
        """
        for row in self._looked_up(ids):
            facts, values = self._alike.read(row.documents) or self._pulled(row)
            yield self._judged(row, facts, values, None, row.ref)

    def _looked_up(self, ids: Sequence[int]) -> list[_Row]:
        with self._handle.database.reading() as session:
            rows = _rows(session, ids)
            for row in rows:
                if row.base is not None:
                    self._facts(session, row.base)
        return rows

    def _judged(
        self, row: _Row, facts: AdapterFacts, values: ValueFacts, given: GivenBase | None, target: str
    ) -> Candidate:
        base = given.facts if given is not None else None if row.base is None else self._bases[row.base]
        doubts = () if given is not None else self._doubts(row, facts)
        return Candidate(
            target=target,
            facts=facts,
            values=values,
            files=row.files,
            base=base,
            base_known=base is not None,
            base_name=row.base_name or named_base(facts),
            # Whoever said it: the card, a flag, the sidecar.
            licensing=Licensing(row.licence, None if given is None else given.licence),
            digest=row.digest,
            version_id=row.id,
            doubts=doubts,
            asked=_ASKED,
            base_moved=any(doubt.rule == MOVED.id for doubt in doubts),
        )

    def _pulled(self, row: _Row) -> tuple[AdapterFacts, ValueFacts]:
        """What the files say of a version that an older release pushed; from then on it is kept."""
        folder = pull(self._handle, parse_ref(f"{row.ref}@{row.digest}", namespace="local")).path
        examined = examine(folder, digest=False)
        body = canonical_json(facts_document(examined.facts, examined.values)).decode()
        self._handle.database.write(lambda session: _keep_facts(session, row.id, body))
        return examined.facts, examined.values

    def _folder(self, row: _Row) -> Path:
        return self._handle.settings.pulled / row.digest.removeprefix("sha256:")

    def _doubts(self, row: _Row, facts: AdapterFacts) -> tuple[Finding, ...]:
        """What is in doubt about the base that it is judged against; asked once for all that say the same of it."""
        if row.base is None or row.base_name is None:
            return ()
        said = (row.base, row.base_name, named_base(facts), facts.config.revision)
        if said not in self._doubted:
            base, name, named, revision = said
            with self._handle.database.reading() as session:
                self._doubted[said] = base_doubts(session, base, name, named=named, revision=revision)
        return self._doubted[said]

    def _facts(self, session: Session, base: int) -> BaseFacts:
        if base not in self._bases:
            self._bases[base] = bases.facts_of(session.get_one(Base, base))
        return self._bases[base]


def _rows(session: Session, ids: Sequence[int]) -> list[_Row]:
    of, wanted = base_ids(session, ids), {"ids": list(ids)}
    files: dict[int, list[str]] = {one: [] for one in ids}
    held = select(File.version_id, File.path).where(among(File.version_id), File.role == "file").order_by(File.path)
    for version, path in session.execute(held, wanted):
        files[version].append(path)
    documents: dict[int, dict[str, str]] = {one: {} for one in ids}
    kept = select(Document.version_id, Document.kind, Document.body)
    for version, kind, body in session.execute(
        kept.where(among(Document.version_id), Document.kind.in_(NEEDED)), wanted
    ):
        documents[version][kind] = body
    columns = (Version.id, Adapter.namespace, Adapter.name, Version.number, Version.digest, Version.licence)
    query = select(*columns, Version.base_name).join(Adapter, Adapter.id == Version.adapter_id)
    return [
        _Row(
            row.id,
            f"{row.namespace}/{row.name}@{row.number}",
            row.digest,
            row.licence,
            row.base_name,
            of[row.id],
            tuple(files[row.id]),
            documents[row.id],
        )
        for row in session.execute(query.where(among(Version.id)).order_by(Version.id), wanted)
    ]


def _keep_facts(session: Session, version_id: int, body: str) -> None:
    row = insert_into(session, Document).values(version_id=version_id, kind=KIND, body=body)
    session.execute(row.on_conflict_do_update(index_elements=["version_id", "kind"], set_={"body": body}))
