"""What `Registry` can do with the Hub beyond pushing from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.progress import silent

if TYPE_CHECKING:
    from registry.handle import Handle
    from registry.progress import Progress
    from registry.results import SentResult


class HubVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def send(
        self,
        ref: str,
        to: str,
        *,
        public: bool = False,
        force: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> SentResult:
        """Write a version to `hf://org/name` with a model card, in a new private repo where there is none.

        What else is there is left alone; other content of the same names is a ConflictError without `force`.
        """
        from registry.hub.place import parse_place
        from registry.hub.send import SendRequest, send

        request = SendRequest(
            ref=self._handle.ref(ref), place=parse_place(to), public=public, force=force, dry_run=dry_run
        )
        return send(self._handle, request, progress=progress or silent)
