"""What `Registry` can do with the Hub beyond pushing from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.values.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.handle import Handle
    from registry.hub.results import HubImportResult, SentResult
    from registry.settings import Settings
    from registry.values.progress import Progress


class HubVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle
    settings: Settings

    def import_account(
        self,
        source: str,
        *,
        into: str | None = None,
        match: str | None = None,
        limit: int = 0,
        allow: Iterable[str] = (),
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> HubImportResult:
        """Push every adapter of `hf://org/*` that is not here yet, to the namespace `into` or one like the account.

        What cannot be taken is told in the result and stops nothing; run again it goes on where it stopped.
        """
        from registry.hub.bulk import BulkRequest, import_account
        from registry.hub.place import parse_pattern

        request = BulkRequest(
            pattern=parse_pattern(source),
            into=None if into is None else self._handle.name(f"{into}/x").namespace,
            match=match,
            limit=limit,
            allow=tuple(allow),
            dry_run=dry_run,
            actor=self.settings.actor,
        )
        return import_account(self._handle, request, progress=progress or silent)

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
