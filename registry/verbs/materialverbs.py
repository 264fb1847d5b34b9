"""What `Registry` can do with materialised artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from registry.values.progress import silent, unheard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.artifacts.request import MaterializeOptions
    from registry.artifacts.results import (
        ArtifactCheck,
        ArtifactDetail,
        ArtifactInfo,
        MaterializeResult,
        RebuildResult,
        RemovedArtifact,
    )
    from registry.handle import Handle
    from registry.values.progress import Notice, Progress


class MaterialVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def materialize(
        self, adapters: Sequence[str | Path], *, kind: str, to: str | Path, **options: Unpack[MaterializeOptions]
    ) -> MaterializeResult:
        """Write adapters (references or folders) in the form `kind` to the new folder `to`: `merged` into a base's
        weights, `hotswap` as images that the engine swaps in, or `peft` as PEFT's own folder.

        The options are those of `adapters materialize`. The same request again gives what is there, hashed again.
        """
        from registry.artifacts.materialize import materialize
        from registry.artifacts.request import materialize_request

        request = materialize_request(self._handle, adapters, kind, to, options)
        progress, notice = options.get("progress") or silent, options.get("notice") or unheard
        return materialize(self._handle, request, progress=progress, notice=notice)

    def artifacts(self) -> tuple[ArtifactInfo, ...]:
        """All artifacts in the order in which they were made."""
        from registry.artifacts.upkeep import list_artifacts

        return list_artifacts(self._handle)

    def artifact(self, artifact: int | str) -> ArtifactDetail:
        """Everything about one: by its number, the start of its digest or its recipe's, or a folder that holds it."""
        from registry.artifacts.upkeep import show_artifact

        return show_artifact(self._handle, str(artifact))

    def remove_artifact(self, artifact: int | str, *, files: bool = False) -> RemovedArtifact:
        """Forget an artifact; gc then frees what the store keeps for it alone. `files` deletes its folders here too."""
        from registry.artifacts.upkeep import remove_artifact

        return remove_artifact(self._handle, str(artifact), files=files)

    def verify_artifact(self, artifact: int | str, *, measure: bool = False) -> ArtifactCheck:
        """Hash every byte of an artifact where it lies; CorruptError names what is wrong. `measure` reads the base and
        the adapters too, and says anew how much of them is in each weight.
        """
        if measure:
            from registry.artifacts.rebuild import measured as verify
        else:
            from registry.artifacts.upkeep import verify_artifact as verify
        return verify(self._handle, str(artifact))

    def rebuild_artifact(
        self,
        artifact: int | str,
        *,
        to: str | Path | None = None,
        progress: Progress | None = None,
        notice: Notice | None = None,
    ) -> RebuildResult:
        """Build an artifact from its recipe once more; CorruptError names the tensor where it comes out otherwise.

        Without `to` it goes where it lay and is missing or changed by now, else the new build is dropped.
        """
        from registry.artifacts.rebuild import rebuild

        return rebuild(self._handle, str(artifact), to=to, progress=progress or silent, notice=notice or unheard)
