"""`Registry`: every verb of the command line as a method. Both are the same functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from registry.basemodels import bases as base_models
from registry.browse.filters import list_query, parse_duration
from registry.catalog.schema import prepare
from registry.handle import Handle
from registry.hub.verbs import HubVerbs
from registry.settings import Settings, load_settings
from registry.values.progress import silent, unheard
from registry.values.refs import Ref, parse_alias
from registry.verbs.checkverbs import CheckVerbs
from registry.verbs.convertverbs import ConvertVerbs
from registry.verbs.lookverbs import LookVerbs
from registry.verbs.materialverbs import MaterialVerbs
from registry.verbs.pullverbs import PullVerbs
from registry.versions import aliases as alias_moves
from registry.versions import labels, removal
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack

    from registry.basemodels.baseinfo import BaseInfo
    from registry.browse.filters import ListFilters
    from registry.pulls.watch import Watch
    from registry.results import (
        AliasInfo,
        BackupResult,
        ExportResult,
        FsckResult,
        GcResult,
        ImportResult,
        MergeResult,
        PushResult,
        RegistryStatus,
        RerunResult,
        VerifyResult,
        VersionDetail,
        VersionInfo,
    )
    from registry.values.progress import Notice, Progress
    from registry.verbs.options import MergeOptions, PushOptions, RerunOptions


class Registry(LookVerbs, PullVerbs, CheckVerbs, HubVerbs, ConvertVerbs, MaterialVerbs):
    """A catalog and its blobs. A class because it holds the connection pool; use `Registry.open`.

    References are texts as on the command line (`team/sql@prod`). Every method is one transaction, or one use case
    with one transaction at its end; errors are those of `registry.errors` and `engine.errors`.
    """

    def __init__(self, settings: Settings) -> None:
        self._handle = Handle(settings)
        self.settings = settings

    @classmethod
    def open(
        cls,
        home: str | Path | None = None,
        *,
        database_url: str | None = None,
        store_url: str | None = None,
        context: str | None = None,
        settings: Settings | None = None,
    ) -> Registry:
        """The registry at these places; whatever is not given comes from the environment, adapters.toml or defaults.

        Touches nothing yet: the first call that needs the database creates the schema where there is none.
        """
        return cls(
            settings or load_settings(home=home, database_url=database_url, store_url=store_url, context=context)
        )

    def close(self) -> None:
        """Close idle connections; the next call opens new ones."""
        self._handle.unchecked.dispose()

    # Setting up

    def init(self) -> RegistryStatus:
        """Create what is missing: schema, blob folder. A bucket must be there; what it can do is tried."""
        state = prepare(self._handle.unchecked)
        self._handle.store.prepare()
        return self._handle.status(state)

    def migrate(self) -> RegistryStatus:
        """Bring an older schema up to date, PostgreSQL's too."""
        from registry.catalog.schema import migrate

        return self._handle.status(migrate(self._handle.unchecked))

    def doctor(self) -> RegistryStatus:
        """Places, versions, and whether each can be used; changes nothing in an existing registry."""
        from registry.upkeep.doctor import examine_registry

        return examine_registry(self._handle, self.settings)

    # Publishing and fetching

    def push(self, path: str | Path, name: str, **options: Unpack[PushOptions]) -> PushResult:
        """Publish a folder, or `hf://org/name@REV`, as the next version of `name`; known content finds its version.

        The options are those of `adapters push`: aliases, tags, metrics, message, base, parents with their relation,
        include, allow, git_commit, run_id, data_digest, licence.
        """
        from registry.hub.push import push_path
        from registry.verbs.options import push_request

        progress = options.get("progress") or silent
        request = push_request(self._handle, path, name, options)
        return push_path(self._handle, str(path), request, progress=progress)

    def export(
        self,
        *names: str,
        to: str | Path,
        parents: bool = True,
        force: bool = False,
        progress: Progress | None = None,
    ) -> ExportResult:
        """Write versions to one file, with parents, bases, reports and labels; a name stands for all its versions."""
        from registry.bundles.bundle import export_bundle

        refs = tuple(self._handle.ref(name) for name in names)
        place = Path(to).expanduser()
        return export_bundle(self._handle, refs, place, parents=parents, force=force, progress=progress or silent)

    def import_(
        self,
        source: str | Path,
        *,
        names: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> ImportResult:
        """Bring in the versions of a bundle. `names` maps a namespace or a name there to one here."""
        from registry.bundles.bundleimport import import_bundle

        place = Path(source).expanduser()
        return import_bundle(
            self._handle, place, names=names or {}, allow=tuple(allow), dry_run=dry_run, progress=progress or silent
        )

    # Looking up

    def get(self, ref: str) -> VersionDetail:
        """Everything known about a version."""
        from registry.browse.detail import show

        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            return show(session, resolve(session, wanted).id)

    def show(self, ref: str, *, energy: float | None = None) -> VersionDetail:
        """The same as `get`, also for a deleted version; `energy` adds the ranks that keep this share of every module,
        known of merges alone.
        """
        from registry.browse.detail import show

        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            return show(session, resolve(session, wanted, deleted=True).id, energy=energy)

    def list(self, **filters: Unpack[ListFilters]) -> builtins.list[VersionInfo]:
        """One page of the newest versions of all adapters, or of all versions; each row carries its cursor.

        The filters are the options of `adapters list`; ranges are `LO..HI` or (low, high), None leaving an end open.
        """
        from registry.browse.listing import list_versions

        base = filters.get("base")
        if base is not None:
            filters["base"] = self._handle.base_name(base)
        query = list_query(**filters)
        with self._handle.database.reading() as session:
            return list_versions(session, query)

    def watch(
        self,
        ref: str,
        *,
        interval: float = 5.0,
        timeout: float | None = None,
        once: bool = False,
        command: Sequence[str] = (),
        notice: Notice | None = None,
    ) -> Watch:
        """Follow an alias (or latest): an iterator of events, the first what it names now; times are in seconds.

        Each version is pulled before its event. While database or store are away, `notice` is told and it goes on.
        """
        from registry.pulls.watch import Watch, WatchPlan

        plan = WatchPlan(interval=interval, timeout=timeout, once=once, command=tuple(command))
        return Watch(self._handle, self._handle.ref(ref), plan, notice=notice or unheard)

    # Names and labels

    def set_alias(self, ref: str, alias: str, *, expect: str | None = None) -> AliasInfo:
        """Point an alias at a version. `expect` is the reference it must point at now, or "none"."""
        wanted, name = self._handle.ref(ref), parse_alias(alias)
        expected: Ref | Literal["none"] | None = None
        if expect is not None:
            expected = "none" if expect == "none" else self._handle.ref(expect)
        actor = self.settings.actor
        return self._handle.database.write(
            lambda session: alias_moves.set_alias(session, wanted, name, expect=expected, actor=actor)
        )

    def remove_alias(self, name: str, alias: str) -> AliasInfo:
        """Take an alias away; its history stays."""
        wanted, old, actor = self._handle.name(name), parse_alias(alias), self.settings.actor
        return self._handle.database.write(lambda session: alias_moves.remove_alias(session, wanted, old, actor=actor))

    def rollback_alias(self, name: str, alias: str) -> AliasInfo:
        """Undo the newest move of an alias; again goes one further back."""
        wanted, old, actor = self._handle.name(name), parse_alias(alias), self.settings.actor
        return self._handle.database.write(
            lambda session: alias_moves.rollback_alias(session, wanted, old, actor=actor)
        )

    def aliases(self, name: str) -> tuple[AliasInfo, ...]:
        """The aliases of an adapter."""
        wanted = self._handle.name(name)
        with self._handle.database.reading() as session:
            return alias_moves.list_aliases(session, wanted)

    def set_tags(self, ref: str, tags: Mapping[str, str]) -> VersionInfo:
        """Add tags; one that is there gets the new value."""
        actor = self.settings.actor
        return self._handle.labelled(ref, lambda session, row: labels.set_tags(session, row, tags, actor=actor))

    def remove_tags(self, ref: str, keys: Iterable[str]) -> VersionInfo:
        """Remove tags; a key that is not there is no error."""
        gone, actor = tuple(keys), self.settings.actor
        return self._handle.labelled(ref, lambda session, row: labels.remove_tags(session, row, gone, actor=actor))

    def set_metrics(self, ref: str, metrics: Mapping[str, float]) -> VersionInfo:
        """Add metrics; one that is there gets the new value."""
        actor = self.settings.actor
        return self._handle.labelled(ref, lambda session, row: labels.set_metrics(session, row, metrics, actor=actor))

    # Removing and keeping up

    def remove(self, ref: str) -> VersionInfo:
        """Mark a version deleted: its number and lineage stay, and `undelete` brings it back until gc freed it."""
        wanted, actor = self._handle.ref(ref), self.settings.actor
        return self._handle.recorded(lambda session: removal.remove(session, wanted, actor=actor))

    def undelete(self, ref: str) -> VersionInfo:
        """Take a deletion back."""
        wanted, actor = self._handle.ref(ref), self.settings.actor
        return self._handle.recorded(lambda session: removal.undelete(session, wanted, actor=actor))

    def verify(self, ref: str) -> VerifyResult:
        """Hash every blob of a version; CorruptError names the first that is wrong or missing."""
        from registry.pulls.pull import files_of
        from registry.upkeep.verify import verify_files

        wanted = self._handle.ref(ref)
        with self._handle.database.reading() as session:
            version = resolve(session, wanted, deleted=True)
            exact, digest, files = f"{wanted.name}@{version.number}", version.digest, files_of(session, version)
        return verify_files(self._handle.store, exact, digest, files)

    def fsck(self, *, rebuild: bool = False, progress: Progress | None = None) -> FsckResult:
        """Check every row and every byte; with `rebuild`, first make versions again that only their blobs tell of."""
        from registry.upkeep.fsck import check_registry, rebuild_registry

        return (rebuild_registry if rebuild else check_registry)(self._handle, progress=progress or silent)

    def backup(self, to: str | Path, *, force: bool = False) -> BackupResult:
        """Copy a SQLite catalog to a file while it is in use; the blobs are copied after it, by other means."""
        from registry.upkeep.backup import back_up

        return back_up(self._handle.database, Path(to).expanduser(), force=force)

    def gc(self, *, grace: str = "7d", dry_run: bool = False) -> GcResult:
        """Free what nothing needs; `grace` is how long a deletion must be past."""
        if dry_run:
            from registry.collecting.forecast import forecast as run
        else:
            from registry.collecting.gc import collect as run
        return run(self._handle, grace=parse_duration(grace))

    # Bases, merges

    def add_base(
        self, path: str | Path, *, names: Iterable[str] = (), revision: str | None = None, norms: bool = False
    ) -> BaseInfo:
        """Remember a base model by its path and names: safetensors headers and samples, or its config alone.

        `norms` also streams the weights once and keeps their Frobenius norms, for the rules that compare ‖ΔW‖ with ‖W‖.
        """
        from registry.basemodels.basefiles import read_base_place, with_norms

        place = Path(path).expanduser()
        facts = read_base_place(place)
        if norms:
            facts = with_norms(place, facts)
        known_as = (*dict.fromkeys(names), str(place.absolute()))
        actor = self.settings.actor
        return self._handle.database.write(
            lambda session: base_models.add(session, facts, known_as, revision=revision, actor=actor)
        )

    def bases(self) -> tuple[BaseInfo, ...]:
        """All bases in the order they were met."""
        with self._handle.database.reading() as session:
            return base_models.list_bases(session)

    def base(self, name: str) -> BaseInfo:
        """A base by any of its names, its path or its fingerprint."""
        wanted = self._handle.base_name(name)
        with self._handle.database.reading() as session:
            return base_models.show_base(session, base_models.get(session, wanted))

    def merge(self, refs: Sequence[str] = (), *, into: str, **options: Unpack[MergeOptions]) -> MergeResult:
        """Merge versions into the next version of `into`, with a report of what was kept.

        The options are those of `adapters merge` (`lambda_` for its --lambda, weights also by rules) and of a push, or
        `spec`, a recipe file instead of refs and method.
        """
        return self._merged(refs, into, options)[0]

    def merge_grid(self, refs: Sequence[str], *, into: str, **options: Unpack[MergeOptions]) -> tuple[MergeResult, ...]:
        """Merge once for each row of `weights_grid`, in order; the parents are read and factored once."""
        return tuple(self._merged(refs, into, options))

    def rerun(self, ref: str, **options: Unpack[RerunOptions]) -> RerunResult:
        """Repeat the merge that made a version, compare the tensors, publish nothing."""
        from registry.merges.rerun import rerun
        from registry.verbs.options import rerun_options

        return rerun(self._handle, self._handle.ref(ref), **rerun_options(options))

    def _merged(self, refs: Sequence[str], into: str, options: MergeOptions) -> Sequence[MergeResult]:
        from registry.merges.merge import merge
        from registry.verbs.options import merge_request

        progress = options.get("progress") or silent
        return merge(self._handle, merge_request(self._handle, refs, into, options), progress=progress)
