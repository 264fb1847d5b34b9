"""`artifacts list`, `show`, `verify`, `rebuild`, `rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb, Verbs
from registry.cli.params import FilledPath, Word
from registry.cli.shown.materialreport import report_lines
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import fields, moment, plural, printable, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.artifacts.results import ArtifactCheck, ArtifactDetail, ArtifactInfo, RebuildResult, RemovedArtifact
    from registry.cli.invocation import Invocation

_ARTIFACT = click.argument("artifact", type=Word(), metavar="ARTIFACT")


@click.group(cls=Verbs, examples=["adapters artifacts list", "adapters artifacts rebuild 1"])
def artifacts() -> None:
    """Materialised results: what they were made from, and where they lie.

    ARTIFACT is a number of `artifacts list`, sha256: and 12 or more digits of its digest or its recipe's, or a folder
    that holds it (a path starts with /, ./, ../ or ~).
    """


@artifacts.command("list", examples=["adapters artifacts list", "adapters artifacts list --format json"])
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List artifacts in the order in which they were made.

    Folders are looked at, not hashed: changed means another size or time of a file.
    """
    found = invocation.registry.artifacts()
    emit(invocation, found, human=lambda: _table(found), quiet=lambda: [str(one.artifact) for one in found])


@artifacts.command("show", cls=Verb, examples=["adapters artifacts show 1", "adapters artifacts show ./merged"])
@_ARTIFACT
@click.pass_obj
def show(invocation: Invocation, artifact: str) -> None:
    """Show an artifact's recipe, files, places and report."""
    found = invocation.registry.artifact(artifact)
    emit(invocation, found, human=lambda: _detail(found), quiet=lambda: [found.info.digest])


@artifacts.command("verify", cls=Verb, examples=["adapters artifacts verify 1", "adapters artifacts verify ./merged"])
@_ARTIFACT
@click.option("--measure", is_flag=True, help="Read base and adapters too, and measure how much of them is in it.")
@click.pass_obj
def verify(invocation: Invocation, artifact: str, *, measure: bool) -> None:
    """Hash every tensor and file of an artifact again.

    A merged checkpoint that the catalog does not know is held against its own materialize.json.
    """
    found = invocation.registry.verify_artifact(artifact, measure=measure)
    emit(invocation, found, human=lambda: _verified(found), quiet=lambda: [found.digest or str(found.path)])


@artifacts.command(
    "rebuild", cls=Verb, examples=["adapters artifacts rebuild 1", "adapters artifacts rebuild 1 --to ./merged-again"]
)
@_ARTIFACT
@click.option("--to", type=FilledPath(), metavar="DIR", help="Put the new build into this new folder.")
@click.pass_obj
def rebuild(invocation: Invocation, artifact: str, *, to: str | None) -> None:
    """Build an artifact from its recipe again, and compare.

    Exit code 6 names the first tensor that comes out otherwise. Where what it was made from is gone, it is taken from
    the store, if that has it. Without --to the build goes where the artifact lay, if that is missing or changed by now;
    else it is dropped after the comparison.
    """
    with bars(invocation) as progress:
        found = invocation.registry.rebuild_artifact(artifact, to=to, progress=progress, notice=note)
    for text in found.notes:
        note(text)
    emit(invocation, found, human=lambda: _rebuilt(found), quiet=lambda: [found.digest])


@artifacts.command("rm", cls=Verb, examples=["adapters artifacts rm 1", "adapters artifacts rm 1 --files"])
@_ARTIFACT
@click.option("--files", is_flag=True, help="Delete its folders on this host too, unless something else is in them.")
@click.pass_obj
def rm(invocation: Invocation, artifact: str, *, files: bool) -> None:
    """Forget an artifact; gc then frees what the store keeps for it.

    Folders stay unless --files is given. The same request makes it again.
    """
    found = invocation.registry.remove_artifact(artifact, files=files)
    emit(invocation, found, human=lambda: _removed(found), quiet=lambda: [str(found.artifact)])


def _table(found: Sequence[ArtifactInfo]) -> Iterator[str]:
    if not found:
        return
    header = ("ARTIFACT", "AS", "SIZE", "STORED", "BASE", "FROM", "CREATED", "PLACES")
    rows = [
        (
            str(one.artifact),
            one.kind,
            size(one.size),
            size(one.stored_bytes) if one.stored else "-",
            one.base or "-",
            " ".join(one.parents),
            moment(one.created_at),
            ", ".join(f"{place.path} ({place.state})" for place in one.places) or "-",
        )
        for one in found
    ]
    yield from table(header, rows, right=("ARTIFACT", "SIZE", "STORED"))


def _detail(found: ArtifactDetail) -> Iterator[str]:
    info = found.info
    weights = [parent["weight"] for parent in found.recipe["parents"]]
    parents = [f"{name} at weight {weight:g}" for name, weight in zip(info.parents, weights, strict=True)]
    options = {name: found.recipe.get(name) for name in ("dtype", "quantize", "rounding", "seed", "shard_size", "rank")}
    yield from fields(
        {
            "artifact": str(info.artifact),
            "as": info.kind,
            "base": info.base,
            "from": ", ".join(parents),
            **{name: str(value) for name, value in options.items() if value is not None},
            "digest": info.digest,
            "recipe": info.recipe_digest,
            "size": f"{size(info.size)} in {plural(len(found.files), 'file')}",
            "tensors": str(len(found.tensors)),
            "stored": size(info.stored_bytes) if info.stored else "no",
            "made by": info.actor,
            "created": moment(info.created_at),
        }
    )
    for place in info.places:
        yield f"place  {printable(place.path)} on {printable(place.host)}: {place.state}"
    yield from report_lines(found.report)


def _verified(found: ArtifactCheck) -> Iterator[str]:
    yield from fields(
        {
            "path": str(found.path),
            "status": found.status,
            "digest": found.digest,
            "hashed": f"{plural(found.tensors, 'tensor')} in {plural(found.files, 'file')}",
        }
    )
    yield from report_lines(found.report)


def _rebuilt(found: RebuildResult) -> Iterator[str]:
    how = (
        "taken from the store, every byte hashed"
        if found.restored
        else "built again, every tensor has the digest it had"
    )
    yield f"artifact {found.artifact}: {how}"
    yield from fields({"digest": found.digest, "path": None if found.path is None else str(found.path)})
    if found.path is None:
        yield "compared and dropped; --to DIR keeps a build"


def _removed(found: RemovedArtifact) -> Iterator[str]:
    yield f"artifact {found.artifact} is forgotten"
    for path in found.deleted:
        yield f"deleted {printable(path)}"
    for path, reason in (found.kept or {}).items():
        yield f"kept {printable(path)}: {printable(reason)}"
