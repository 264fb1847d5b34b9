"""What `Registry` can say of the relations between versions, and of many at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.browse.filters import parse_size
from registry.errors import UsageError
from registry.values.progress import silent
from registry.values.refs import parse_alias
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from registry.differences import DiffResult
    from registry.handle import Handle
    from registry.planning.hanging import HangingResult
    from registry.planning.impact import ImpactResult
    from registry.planning.plan import PlanResult
    from registry.results import LineageGraph, LogEntry, VersionInfo
    from registry.values.progress import Progress


class LookVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def log(self, name: str) -> tuple[LogEntry, ...]:
        """Versions and alias moves of an adapter in the order they happened."""
        from registry.browse.history import log

        wanted = self._handle.name(name)
        with self._handle.database.reading() as session:
            return log(session, wanted)

    def lineage(self, ref: str, *, up: bool = True, down: bool = True) -> LineageGraph:
        """What a version comes from (`up`) and what came from it (`down`)."""
        from registry.browse.lineage import lineage

        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            return lineage(session, resolve(session, wanted, deleted=True).id, up=up, down=down)

    def diff(self, left: str, right: str, *, progress: Progress | None = None) -> DiffResult:
        """Compare two references or paths: configs, modules, norms and subspaces of every ΔW, files."""
        from registry.diff import diff

        return diff(self._handle, left, right, progress=progress or silent)

    def which(self, file: str | Path) -> tuple[VersionInfo, ...]:
        """The versions that hold this file, or a safetensors file with the same tensors; NotFoundError for none.

        Deleted ones are found too until gc frees them; `deleted` says so.
        """
        from registry.browse.summary import summaries
        from registry.upkeep.verify import file_digests, versions_holding

        digest, tensors = file_digests(Path(file).expanduser())
        with self._handle.database.reading() as session:
            return summaries(session, versions_holding(session, digest, tensors))

    def plan(
        self,
        *refs: str,
        for_engine: str,
        base: str | None = None,
        alias: str | None = None,
        dtype: str | None = None,
        max_loras: int | None = None,
        memory: str | int | None = None,
    ) -> PlanResult:
        """The smallest room in which an engine (`vllm`, `sglang@0.5.23`, `own`) serves these versions together.

        Without references: the newest versions for `base`, or those that `alias` names. `max_loras` is how many lie on
        the device at once, `memory` ("8GB") how much they may take there; without both, all do.
        """
        from registry.planning.plan import PlanRequest, plan

        named = None if alias is None else parse_alias(alias)
        room = parse_size(memory) if isinstance(memory, str) else memory
        return plan(self._handle, PlanRequest(for_engine, refs, base, named, dtype, max_loras, room))

    def impact(
        self, *, base: str | None = None, for_engine: str | None = None, to: str | None = None
    ) -> HangingResult | ImpactResult:
        """What breaks if `base`, or the engine release `for_engine`, is replaced by `to`; what hangs on a base without.

        Looks at the newest version of every adapter and at those that an alias names, by stored facts alone.
        """
        if for_engine is not None:
            if to is None:
                raise UsageError(f"{for_engine}: expected what replaces it", hint="adapters impact --for A --to B")
            from registry.planning.impact import replaced_engine

            return replaced_engine(self._handle, for_engine, to, base=base)
        if base is None:
            raise UsageError("expected a base or an engine", hint="adapters impact --base B, or --for A --to B")
        if to is None:
            from registry.planning.hanging import hanging

            return hanging(self._handle, base)
        from registry.planning.impact import replaced_base

        return replaced_base(self._handle, base, to)
