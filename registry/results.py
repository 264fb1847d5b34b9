"""What the use cases return: frozen values, each with the JSON object of design section 6."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from engine.compat.finding import Finding
    from registry.browse.rankneeds import RanksFor
    from registry.findings.verdicts import CheckState


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One row of `list`. `ref` is `namespace/name@number`, `name` is `namespace/name`; `size` in bytes."""

    ref: str
    name: str
    version: int
    digest: str
    base: str | None
    peft_type: str
    rank: int | None
    size: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    created_at: datetime
    cursor: str | None = None
    deleted: bool = False
    pushed_by: str | None = None
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    licence: str | None = None
    check: CheckState | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of lineage. Nodes are named by ref; a parent known only by digest keeps its digest as the name."""

    child: str
    parent: str
    relation: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A version or a base in a lineage graph; `kind` is `version`, `base` or `unknown`."""

    id: str
    kind: str
    digest: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """What a version comes from and what came from it."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """Everything `show` tells about a version. `sources` says of each field of provenance who said it."""

    ref: str
    name: str
    version: int
    digest: str
    tensors_digest: str | None
    base: str | None
    peft_type: str
    rank: int | None
    size: int
    dtype: str | None
    norm: float | None
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    message: str | None
    pushed_by: str | None
    created_at: datetime
    deleted_at: datetime | None
    files: tuple[FileEntry, ...]
    config: Mapping[str, Any]
    modules: tuple[Mapping[str, Any], ...]
    lineage: LineageGraph
    recipe: Mapping[str, Any] | None
    report: Mapping[str, Any] | None
    findings: tuple[Mapping[str, Any], ...]
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    licence: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    ranks_for: RanksFor | None = None
    checks: tuple[CheckState, ...] = ()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A version or an alias move, in the order they happened. Only a push has what it was made from: commit, run, data
    and licence; its `actor` is who pushed it.
    """

    kind: str  # "version" or "alias"
    ref: str | None
    version: int | None
    alias: str | None
    action: str
    from_version: int | None
    actor: str | None
    message: str | None
    at: datetime
    git_commit: str | None = None
    run_id: str | None = None
    data_digest: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class AliasInfo:
    """An alias and the version it names; null after removal."""

    alias: str
    ref: str | None
    version: int | None
    previous: int | None = None


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did. `created` is False where the content was already there under this adapter; `newest` names the
    highest version then, and `notes` says in words what a person should know.
    """

    ref: str
    name: str
    version: int
    digest: str
    tensors_digest: str | None
    created: bool
    left_out: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    newest: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merge: push's object and the report. In a dry run nothing is pushed and the version fields are null."""

    ref: str | None
    name: str
    version: int | None
    digest: str | None
    tensors_digest: str | None
    created: bool
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]
    report: Mapping[str, Any]
    newest: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RerunResult:
    """A merge done again: whether its tensors are those of `ref`, both digests, and the packages whose version has
    changed since (then, now), any of which may change bytes.
    """

    ref: str
    same: bool
    expected: str
    found: str
    changed: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class PullResult:
    """Where a version's files lie."""

    ref: str
    digest: str
    path: Path


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version on a live model: the name that batches call it by there, what it is, and where its files lie."""

    name: str
    ref: str
    digest: str
    path: Path


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """A file written anew: `source` is its name before, `size` in bytes after."""

    source: str
    path: str
    tensors: int
    size: int


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """A folder with the same adapter, and what to know about how it came to be."""

    path: Path
    converted: tuple[ConvertedFile, ...]
    left_out: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """What `init`, `migrate` and `doctor` report."""

    database: str
    store: str
    revision: str | None
    created: bool = False
    upgraded_from: str | None = None
    backup: str | None = None
    checks: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One finding of fsck: a stable id, a severity, what it is about."""

    id: str
    severity: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class FsckResult:
    """What fsck saw, and with `--rebuild` which versions it made again and which it completed before it looked."""

    status: str
    versions: int
    blobs: int
    findings: tuple[StoreFinding, ...]
    made: tuple[str, ...] = ()
    completed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Every file of a version re-hashed."""

    ref: str
    digest: str
    files: int
    bytes: int
    status: str = "pass"


@dataclass(frozen=True, slots=True)
class GcResult:
    """What a collection freed, or would free; `removed` names the first 1,000 blobs of it."""

    dry_run: bool
    blobs: int
    bytes: int
    versions: int
    temporary: int
    removed: tuple[str, ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportedVersion:
    """A version that an import brought in, or found here already (`created` False); `source` is its name elsewhere."""

    ref: str
    name: str
    version: int
    digest: str
    created: bool
    source: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did, version by version. In a dry run nothing was written and the numbers are a forecast."""

    source: str
    versions: tuple[ImportedVersion, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What a bundle holds; `path` is null where it went to stdout. `left_out` names versions that edges point at and
    that have no files here any more.
    """

    path: str | None
    digest: str
    size: int
    versions: tuple[str, ...]
    blobs: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A pulled version in the cache. `state` is `ok` or `incomplete`; `refs` are the versions that have the digest,
    None where the catalog cannot be asked; `last_used` by the clock of the file system.
    """

    digest: str
    path: Path
    size: int
    files: int
    last_used: datetime
    refs: tuple[str, ...] | None
    state: str


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What was removed from the cache, or would be; `kept` counts by reason what was due and stays."""

    dry_run: bool
    entries: int
    bytes: int
    temporary: int
    removed: tuple[str, ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A copy of the catalog: how many bytes, and how many versions are in it."""

    database: str
    path: str
    size: int
    versions: int
