"""What materialising and its upkeep return: frozen values, each with the JSON object of design section 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from engine.compat.finding import Finding


@dataclass(frozen=True, slots=True)
class MaterializeResult:
    """A materialised folder (or file) at `path`, None in a dry run.

    `reused` says how it came to be there: None where it was built now, else `kept` (it was there and right), `linked`,
    `copied`, or `restored` from the store. `digest` names its bytes, `recipe_digest` the recipe, `artifact` the row.
    """

    path: Path | None
    recipe: Mapping[str, Any]
    report: Mapping[str, Any]
    artifact: int | None = None
    recipe_digest: str | None = None
    digest: str | None = None
    size: int | None = None
    files: int = 0
    reused: str | None = None
    stored: bool = False
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactPlace:
    """A folder that held an artifact when it was last seen; `state` is what its files' sizes and times say now:
    `unchanged`, `changed`, `missing`, or `elsewhere` for another host's.
    """

    host: str
    path: str
    state: str


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """One row of `artifacts list`. `stored_bytes` is what its blobs take in the store, shared ones counted fully."""

    artifact: int
    recipe_digest: str
    digest: str
    kind: str
    base: str | None
    parents: tuple[str, ...]
    size: int
    places: tuple[ArtifactPlace, ...]
    stored: bool
    stored_bytes: int
    actor: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ArtifactDetail:
    """Everything `artifacts show` tells: the row with its recipe, files, tensors and report."""

    info: ArtifactInfo
    recipe: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, str]
    report: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The row's fields beside the others."""
        from registry.values.plainjson import to_json

        rest = {"recipe": self.recipe, "files": self.files, "tensors": self.tensors, "report": self.report}
        return {**to_json(self.info), **to_json(rest)}


@dataclass(frozen=True, slots=True)
class RemovedArtifact:
    """What `artifacts rm` forgot; `deleted` are folders that it removed, `kept` those it left, with the reason."""

    artifact: int
    recipe_digest: str
    deleted: tuple[str, ...] = ()
    kept: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """A build of the same recipe that came to the same digests; `path` is where it lies, None where it was dropped
    because a known place holds these bytes. `restored`: not built but taken from the store, since what it was made from
    is gone.
    """

    artifact: int
    recipe_digest: str
    digest: str
    path: Path | None
    notes: tuple[str, ...] = ()
    restored: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactCheck:
    """A folder whose every tensor and file has the digest that was recorded, `report` as recomputed from the files."""

    artifact: int | None
    path: Path
    digest: str | None
    files: int
    tensors: int
    report: Mapping[str, Any]
    status: str = "pass"
    findings: tuple[Finding, ...] = ()
