"""What `Registry` can do to write an adapter in another form."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from registry.errors import UsageError
from registry.origins.provenance import FLAG, claims
from registry.values.progress import silent
from registry.values.refs import is_path, parse_alias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.conversions.rewrite import RewriteRequest
    from registry.conversions.rewritten import RewriteResult
    from registry.handle import Handle
    from registry.results import ConvertResult
    from registry.values.progress import Progress


class RewriteOptions(TypedDict, total=False):
    """What a rewrite may be given besides its source, its engine and its place."""

    base: str | Path | None
    rank: int | None
    initial: str | Path | None
    aliases: Iterable[str]
    tags: Mapping[str, str] | None
    message: str | None
    licence: str | None
    progress: Progress | None


class ConvertVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def convert(
        self,
        source: str | Path,
        *,
        to: str | Path | None = None,
        into: str | None = None,
        for_engine: str | None = None,
        **options: Unpack[RewriteOptions],
    ) -> ConvertResult | RewriteResult:
        """Write an adapter folder with pickled weights to the new folder `to`, as safetensors; or, with `for_engine`,
        a reference or folder so that this engine computes its function (`vllm@0.33.0:max_lora_rank=64`), to the new
        folder `to` or as the next version of `into`.
        """
        progress = options.get("progress") or silent
        if to is not None:
            self._handle.new_place(to)  # refuses; the caller's own words stay
        if for_engine is None:
            return _unpickle(
                source, to, progress, others=(into, options.get("base"), options.get("rank"), options.get("initial"))
            )
        from registry.conversions.rewrite import rewrite

        request = _request(self._handle, source, options, engine=for_engine, to=to, into=into)
        return rewrite(self._handle, request, progress=progress)


def _unpickle(
    source: str | Path, to: str | Path | None, progress: Progress, *, others: tuple[object, ...]
) -> ConvertResult:
    from registry.conversions.convert import convert

    if any(other is not None for other in others):
        raise UsageError(
            "into, base, rank and initial rewrite an adapter for an engine, and none is given",
            hint="adapters convert REF --for ENGINE --into NAME",
        )
    if isinstance(source, str) and not is_path(source):
        command = shlex.join(("adapters", "convert", f"./{source[:120]}", "--to", str(to)))
        hint = f"a path starts with /, ./, ../ or ~: {command}"
        raise UsageError(f"{source[:120]!r}: expected a folder", hint=hint)
    if to is None:
        raise UsageError("expected --to, a folder to write to", hint="adapters convert PATH --to DIR")
    return convert(Path(source).expanduser(), Path(to).expanduser(), progress=progress)


def _request(
    handle: Handle,
    source: str | Path,
    options: RewriteOptions,
    *,
    engine: str,
    to: str | Path | None,
    into: str | None,
) -> RewriteRequest:
    """Every text parsed; UsageError names what is malformed."""
    from engine.compat.engines.target import parse_target
    from registry.conversions.rewrite import RewriteRequest

    if (to is None) == (into is None):
        raise UsageError("expected a folder or a name for the result, and not both", hint="--to DIR, or --into NAME")
    rank, initial = options.get("rank"), options.get("initial")
    if rank is not None and rank < 1:
        raise UsageError(f"rank {rank}: expected a positive number")
    labels = [name for name in ("aliases", "tags", "message", "licence") if options.get(name)]
    if into is None and labels:
        raise UsageError(f"{labels[0]}: only a version has that, and --to makes a folder", hint="--into NAME")
    surroundings = handle.settings.surroundings
    return RewriteRequest(
        source=_place(source),
        target=parse_target(engine),
        to=None if to is None else Path(to).expanduser(),
        into=None if into is None else handle.name(into),
        base=None if (base := options.get("base")) is None else _place(base),
        rank=rank,
        initial=None if initial is None else _place(initial),
        aliases=tuple(parse_alias(alias) for alias in options.get("aliases", ())),
        tags=options.get("tags") or {},
        message=options.get("message"),
        actor=handle.settings.actor,
        given=claims({"licence": options.get("licence")}, FLAG),
        # what a project trains with was not used here
        surroundings={name: claim for name, claim in surroundings.items() if name not in ("data_digest", "licence")},
    )


def _place(source: str | Path) -> str:
    """A reference, or a path that is_path knows as one."""
    return source if isinstance(source, str) else str(source.expanduser().absolute())
