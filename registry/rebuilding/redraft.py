"""A record and the files that go with it become a draft again: facts are read from the files, never believed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry.basemodels import bases
from registry.errors import UsageError
from registry.findings.examine import documents, named_base
from registry.models import Base, Version
from registry.records.draft import Parent, RecipeDraft, VersionDraft
from registry.records.enclosures import Report
from registry.values.strictjson import canonical_json
from registry.versions.resolve import numbered

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from engine.compat.finding import Finding
    from engine.format.facts import BaseFacts
    from registry.findings.examine import Examined
    from registry.records.record import ParentRecord, VersionRecord
    from registry.results import FileEntry
    from registry.values.refs import Name


def redraft(
    name: Name,
    record: VersionRecord,
    files: tuple[FileEntry, ...],
    manifest_size: int,
    *,
    examined: Examined | None,
    base: BaseFacts | None,
    report: Report | None,
) -> VersionDraft:
    """The draft; without `examined`, whose files are gone, by the summary that the record has."""
    told: dict[str, Any] = {"message": record.origin.message, "actor": record.origin.pushed_by}
    told |= {key: getattr(record.origin, key) for key in ("git_commit", "run_id", "data_digest", "licence")}
    base_name = None if record.base is None else record.base.name
    recipe = None if record.recipe is None else RecipeDraft(record.recipe["method"], record.recipe["body"])
    facts = _summary(record) if examined is None else _facts(examined, record, files, base, report or Report())
    if record.sources:
        said = canonical_json({"sources": dict(record.sources)}).decode()
        facts["documents"] = {**facts.get("documents", {}), "provenance": said}
    return VersionDraft(
        name=name,
        manifest=record.manifest,
        manifest_size=manifest_size,
        files=files,
        base_name=base_name,
        recipe=recipe,
        sources=record.sources,
        **told,
        **facts,
    )


def on_base(session: Session, draft: VersionDraft, record: VersionRecord, facts: BaseFacts | None) -> VersionDraft:
    """The draft for the base that its record tells of, made known here where it is not."""
    if facts is None or record.base is None:
        return draft
    return replace(draft, base_id=_adopted(session, facts, record.base.name))


def parents_here(session: Session, parents: tuple[ParentRecord, ...]) -> tuple[Parent, ...]:
    """The parents with their rows: the very version that was meant, else any that holds the content."""
    return tuple(
        Parent(one.digest, one.relation, one.weight, _parent_id(session, one))  # type: ignore[arg-type]  # checked on reading
        for one in parents
    )


def _adopted(session: Session, facts: BaseFacts, name: str | None) -> int:
    """The row of a base. A name that means another base here keeps its meaning."""
    known = _known_base(session, facts)
    if known is None or (known.fingerprint is None and facts.fingerprint is not None):
        free = name is not None and _may_be_name(session, name, known)
        bases.add(session, facts, (name,) if free and name is not None else ())
        known = _known_base(session, facts)
    elif name is not None and bases.find_id(session, name) is None and _may_be_name(session, name, known):
        bases.add(session, bases.facts_of(known), (name,))
    if known is None:
        raise AssertionError
    return known.id


def _parent_id(session: Session, parent: ParentRecord) -> int | None:
    if parent.place is not None:
        exact = numbered(session, *parent.place)
        if exact is not None and exact.digest == parent.digest:
            return exact.id
    return session.scalar(select(Version.id).where(Version.digest == parent.digest).order_by(Version.id).limit(1))


def _known_base(session: Session, facts: BaseFacts) -> Base | None:
    same = select(Base).where(Base.layout == facts.layout).order_by(Base.id)
    if facts.fingerprint is not None:
        same = select(Base).where(Base.fingerprint == facts.fingerprint)
    return session.scalars(same).first()


def _may_be_name(session: Session, name: str, base: Base | None) -> bool:
    found = bases.find_id(session, name) if name and not name.startswith("sha256:") and name.isprintable() else -1
    return found is None or (base is not None and found == base.id)


def _facts(
    examined: Examined, record: VersionRecord, files: tuple[FileEntry, ...], base: BaseFacts | None, report: Report
) -> dict[str, Any]:
    name = record.base.name if record.base is not None else named_base(examined.facts)
    paths = [entry.path for entry in files]
    return {
        "peft_type": examined.facts.config.peft_type[:64],
        "modules": len(examined.facts.modules),
        "rank": examined.facts.rank,
        "tensors_digest": examined.values.tensors_digest,
        "parameters": examined.parameters,
        "dtype": examined.dtype,
        "norm": examined.norm,
        "documents": documents(examined, spectra=report.spectra, report=report.report),
        "findings": examined.findings(base=base, base_known=base is not None, base_name=name, files=paths),
    }


def _summary(record: VersionRecord) -> dict[str, Any]:
    if record.summary is None:
        raise UsageError(f"{record.ref}: its files are gone and its record has no summary")
    return {key: getattr(record.summary, key) for key in record.summary.__dataclass_fields__}


def errors_among(findings: tuple[Finding, ...], allow: tuple[str, ...]) -> list[Finding]:
    """The findings that refuse a version."""
    return [finding for finding in findings if finding.severity == "error" and finding.rule not in allow]
