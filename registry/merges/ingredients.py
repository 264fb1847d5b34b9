"""The parents of a merge: resolved, on disk, and judged by what the catalog knows of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.compat.rules.licence_rules import combine
from registry.basemodels import bases
from registry.errors import FindingsError, UsageError
from registry.pulls.pull import pull
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from engine.compat.finding import Finding
    from engine.compat.rules.licence_rules import Combined
    from registry.handle import Handle
    from registry.merges.weighting import Weighting
    from registry.values.refs import Ref


@dataclass(frozen=True, slots=True)
class MergeParent:
    """A parent version, resolved and on disk. `tensors_digest` names its tensors, whatever file they lie in."""

    ref: str
    version_id: int
    digest: str
    tensors_digest: str | None
    base: bases.BaseMention
    path: Path
    licence: str | None


def fetch(handle: Handle, refs: Sequence[Ref]) -> list[MergeParent]:
    """Every parent pulled; all of them are known before the first is."""
    if not refs:
        raise UsageError("nothing to merge: expected at least one adapter")
    with handle.database.reading() as session:
        for ref in refs:
            resolve(session, ref)
    return [_fetch(handle, ref) for ref in refs]


def check_weights(row: Sequence[Weighting], parents: int) -> None:
    """UsageError unless there is a finite weight for each parent."""
    if len(row) != parents:
        raise UsageError(f"{len(row)} weights for {parents} adapters: expected one for each")
    defaults = [weighting.default for weighting in row]
    if not all(map(math.isfinite, defaults)):
        raise UsageError(f"weights {', '.join(map(str, defaults))}: expected finite numbers")


def base_doubts(session: Session, parents: Sequence[MergeParent], *, assume_same: bool) -> tuple[Finding, ...]:
    """What is uncertain about the parents' bases being one; FindingsError where they differ and may not."""
    doubt = bases.same_base(session, [parent.base for parent in parents])
    if doubt is None or (doubt.severity == "error" and assume_same):
        return ()
    if doubt.severity == "error":
        raise FindingsError(tuple(parent.ref for parent in parents), [doubt])
    return (doubt,)


def licences(parents: Sequence[MergeParent], allow: Sequence[str]) -> Combined:
    """The result's licence; FindingsError where the parents' exclude each other and nobody allowed it."""
    combined = combine([(parent.ref, parent.licence) for parent in parents])
    if any(one.severity == "error" and one.rule not in allow for one in combined.findings):
        raise FindingsError(", ".join(parent.ref for parent in parents), combined.findings)
    return combined


def _fetch(handle: Handle, ref: Ref) -> MergeParent:
    with handle.database.reading() as session:
        version = resolve(session, ref)
        found = f"{ref.name}@{version.number}"
        mention = bases.BaseMention(found, version.base_name, version.base_id)
        # The very version that is recorded as the parent, wherever an alias has moved to meanwhile.
        exact = replace(ref, number=version.number, alias=None, latest=False, digest=version.digest)
        row, tensors, licence = version.id, version.tensors_digest, version.licence
    return MergeParent(found, row, str(exact.digest), tensors, mention, pull(handle, exact).path, licence)
