"""What `Registry` can do to fetch versions, and with the pull cache that keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.browse.filters import parse_duration, parse_size
from registry.errors import UnavailableError
from registry.results import LoadedVersion
from registry.values.progress import silent, unheard

if TYPE_CHECKING:
    from registry.handle import Handle
    from registry.livemodel import LiveModel
    from registry.results import CacheEntry, PruneResult, PullResult
    from registry.values.progress import Notice, Progress


class PullVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def pull(
        self, ref: str, *, to: str | Path | None = None, link: bool = False, progress: Progress | None = None
    ) -> Path:
        """The folder that holds a version, every byte verified: `to`, or an immutable one unique to the digest."""
        return self.pull_result(ref, to=to, link=link, progress=progress).path

    def pull_result(
        self,
        ref: str,
        *,
        to: str | Path | None = None,
        link: bool = False,
        progress: Progress | None = None,
        notice: Notice | None = None,
    ) -> PullResult:
        """Like `pull`, with the exact version and digest. `notice` hears why a pull waits."""
        from registry.pulls.pull import pull

        wanted = self._handle.ref(ref)
        destination = None if to is None else Path(to).expanduser()
        if destination is not None:
            self._handle.new_place(destination)  # refuses; the caller's own words stay
        return pull(
            self._handle, wanted, to=destination, link=link, progress=progress or silent, notice=notice or unheard
        )

    def load_into(
        self,
        runtime: LiveModel,
        ref: str,
        *,
        name: str | None = None,
        pinned: bool = False,
        progress: Progress | None = None,
    ) -> LoadedVersion:
        """Pull a version, every byte verified, and load it on a live model (`engine.model.Runtime`).

        Batches call it by `name`, or by the reference as it prints (`team/sql@prod`). Where that name is loaded
        already, the version takes its place at once: after an alias moved, call it again. What the runtime refuses is
        raised as it is, with the model unchanged.
        """
        pulled = self.pull_result(ref, progress=progress)
        called = name if name is not None else str(self._handle.ref(ref))
        runtime.load(called, pulled.path, pinned=pinned, replace=True)
        return LoadedVersion(called, pulled.ref, pulled.digest, pulled.path)

    def cache(self) -> tuple[CacheEntry, ...]:
        """What was pulled and is kept on this machine, the version used last first; works with the database down."""
        from registry.pulls.cache import list_cache, refs_by_digest

        entries = list_cache(self._handle.settings.pulled)
        try:
            refs = refs_by_digest(self._handle.database, [entry.digest for entry in entries]) if entries else {}
        except UnavailableError:
            return entries
        return tuple(replace(entry, refs=refs.get(entry.digest, ())) for entry in entries)

    def prune_cache(
        self,
        *,
        older_than: str | None = None,
        keep: int | None = None,
        max_size: str | int | None = None,
        dry_run: bool = False,
    ) -> PruneResult:
        """Remove pulled versions unused for `older_than` (`30d`), and those unused for longest until the rest is no
        larger than `max_size` (`50GB`), but never the `keep` used last; `keep` alone removes all others. Without any,
        only what is incomplete goes.
        """
        from registry.pulls.cache import prune_cache

        return prune_cache(
            self._handle.settings.pulled,
            older_than=None if older_than is None else parse_duration(older_than),
            keep=keep,
            max_size=None if max_size is None else parse_size(str(max_size)),
            dry_run=dry_run,
        )
