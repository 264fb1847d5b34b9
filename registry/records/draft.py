"""What a push knows about the version it wants: frozen values, nothing from the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from engine.compat.finding import worst_status
from registry.values.digests import digest_of
from registry.values.strictjson import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.compat.finding import Finding, Status
    from registry.results import FileEntry
    from registry.values.refs import Name

Relation = Literal["merged_from", "finetuned_from", "converted_from"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that this one comes from; `version_id` where this registry holds it."""

    digest: str
    relation: Relation
    weight: float | None = None
    version_id: int | None = None


@dataclass(frozen=True, slots=True)
class RecipeDraft:
    """What determined a derived version; `body` is plain JSON data."""

    method: str
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The body as canonical JSON."""
        return canonical_json(dict(self.body)).decode()

    @property
    def digest(self) -> str:
        """The digest of the canonical JSON."""
        return digest_of(self.text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDraft:
    """A version before it has a number. All its blobs, the manifest's too, are in the store and named by `lease`.

    `manifest` is the digest of the manifest and so of the version, `manifest_size` its bytes. `documents` are compact
    JSON texts by kind. `findings` are all that the check-in rules said, those of `ruleset`, None for today's.
    `sources` say who says what of its provenance (registry/origins/provenance.py).
    """

    name: Name
    manifest: str
    manifest_size: int
    files: tuple[FileEntry, ...]
    peft_type: str
    modules: int
    rank: int | None = None
    tensors_digest: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    norm: float | None = None
    base_name: str | None = None
    base_id: int | None = None
    base_given: bool = False
    documents: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    recipe: RecipeDraft | None = None
    findings: tuple[Finding, ...] = ()
    ruleset: str | None = None
    message: str | None = None
    actor: str | None = None
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    licence: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    lease: str | None = None

    @property
    def digests(self) -> tuple[str, ...]:
        """Of all its blobs but the record, which has no content before the version has a number."""
        return (*(entry.sha256 for entry in self.files), self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all files together, manifest and record not counted."""
        return sum(entry.size for entry in self.files)

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        return worst_status(self.findings)
