"""Bundles: a part of a registry as one file, written for another registry to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.handle import Handle
    from registry.progress import Progress
    from registry.refs import Ref
    from registry.results import ExportResult, ImportResult


def export_bundle(
    _handle: Handle, _refs: tuple[Ref, ...], _to: Path, *, parents: bool, force: bool, progress: Progress
) -> ExportResult:
    """Write the versions to a file."""
    progress("exporting", 0, parents + force)
    raise UsageError("bundles are not written yet")


def import_bundle(
    _handle: Handle,
    source: Path,
    *,
    names: Mapping[str, str],
    allow: tuple[str, ...],
    dry_run: bool,
    progress: Progress,
) -> ImportResult:
    """Read a bundle in."""
    progress("importing", 0, len(names) + len(allow) + dry_run)
    raise UsageError(f"{source}: bundles are not read yet")
