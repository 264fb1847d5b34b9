"""`materialize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry.cli.command import Verb
from registry.cli.params import FilledPath, Reference, Weights, Word
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.materialreport import report_lines
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import fields, plural, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.artifacts.results import MaterializeResult
    from registry.cli.invocation import Invocation

_HOW = {
    "kept": "it was there, hashed again",
    "linked": "shares its weights with another folder, hashed again",
    "copied": "copied from another folder, hashed again",
    "restored": "from the store, hashed again",
}


@click.command(
    cls=Verb,
    examples=[
        "adapters materialize team/sql@prod --base llama-3-8b --as merged --to ./llama-3-8b-sql",
        "adapters materialize team/sql team/chat --weights 0.7,0.3 --as merged --dtype float32 --to ./both --store",
        "adapters materialize team/sql team/chat --as hotswap --rank 32 --to ./fleet",
    ],
)
@click.argument("adapters", type=Reference(), nargs=-1, required=True, metavar="REF-or-PATH...")
@click.option("--as", "kind", type=click.Choice(["merged", "hotswap", "peft"]), required=True, help="What it becomes.")
@click.option("--to", type=FilledPath(), required=True, metavar="DIR", help="Write to this new folder.")
@click.option("--base", type=Word(), metavar="BASE", help="The base: a name or a folder. Default: the adapters' own.")
@click.option("--weights", type=Weights(), metavar="W,W", help="One number an adapter, of any sign. Default: 1/n each.")
@click.option("--dtype", metavar="D", help="Dtype of the result. Default: that of each tensor.")
@click.option("--quantize", type=click.Choice(["nf4", "int8"]), help="Store the linear layers as bitsandbytes does.")
@click.option(
    "--rounding", type=click.Choice(["nearest", "stochastic"]), help="stochastic keeps small changes on average."
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Decides stochastic rounding. Default: 0.")
@click.option("--shard-size", metavar="SIZE", help="Largest weight file, such as 2GB. Default: 5GB.")
@click.option("--lossy", is_flag=True, help="Accept a result in which less than 0.9 of the change survives.")
@click.option("--rank", type=click.IntRange(1), metavar="N", help="Pad every module to this rank (hotswap, peft).")
@click.option("--for", "for_engine", type=Word(), metavar="ENGINE", help="Rewrite it for ENGINE[@VERSION] (peft).")
@click.option("--store", is_flag=True, help="Keep its tensors in the registry's store too, shared ones once.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of this request stopped.")
@click.option("--dry-run", is_flag=True, help="Plan, refuse what does not fit, and write nothing.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads. Default: one a core.")
@click.pass_obj
def materialize(invocation: Invocation, /, adapters: tuple[str, ...], *, kind: str, to: str, **options: Any) -> None:
    """Write adapters into a base's weights, or as images to swap in.

    merged: a Hugging Face checkpoint that stands alone; every weight is summed in float32 and rounded once, everything
    else keeps its bits. hotswap: images of one layout that the engine maps. peft: PEFT's own folder, padded or
    rewritten for an engine.

    The same request again gives the same files: the folder that is there, or links to one that is elsewhere, all of it
    hashed again. Needs the engine extra: pip install 'adapter-registry[engine]'.
    """
    given = {name: value for name, value in options.items() if value is not None}
    with bars(invocation) as progress:
        result = invocation.registry.materialize(adapters, kind=kind, to=to, progress=progress, notice=note, **given)
    for text in result.notes:
        note(text)
    for text in result.report.get("warnings", ()):
        note(str(text), kind="warning")
    emit(
        invocation,
        result,
        human=lambda: _lines(invocation, result),
        quiet=lambda: [str(result.path) if result.path else str(result.recipe_digest)],
    )


def _lines(invocation: Invocation, result: MaterializeResult) -> Iterator[str]:
    if result.path is None:
        yield "dry run: nothing was written"
    yield from fields(
        {
            "path": None if result.path is None else str(result.path),
            "artifact": None if result.artifact is None else str(result.artifact),
            "reused": _HOW.get(result.reused or ""),
            "size": None if result.size is None else f"{size(result.size)} in {plural(_files(result), 'file')}",
            "digest": result.digest,
            "recipe": result.recipe_digest,
            "stored": "its tensors are in the store" if result.stored else None,
        }
    )
    yield from report_lines(result.report)
    yield from finding_lines(invocation, result.findings)
    if result.artifact is not None:
        yield ""
        yield f"next: adapters artifacts verify {result.artifact}"


def _files(result: MaterializeResult) -> int:
    return result.files or len(result.report.get("files", ()))
