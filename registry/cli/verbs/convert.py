"""`convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import FilledPath, Reference, Word, alias_option, licence_option, tag_option
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import fields, plural, size
from registry.hub.place import is_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.conversions.rewritten import RewriteResult
    from registry.results import ConvertResult


@click.command(
    cls=Verb,
    examples=[
        "adapters convert ./old-lora --to ./old-lora-safetensors",
        "adapters convert team/sql@prod --for sglang --into team/sql-sglang --alias prod",
        "adapters convert ./pissa-lora --for vllm:max_lora_rank=64 --initial ./pissa-init --to ./plain-lora",
    ],
)
@click.argument("source", type=Reference(), metavar="PATH-or-REF")
@click.option("--to", type=FilledPath(), metavar="DIR", help="Write the adapter to this new folder.")
@click.option("--into", type=Reference(), metavar="NAME", help="Publish it as the next version of NAME.")
@click.option(
    "--for", "for_engine", type=Word(), metavar="ENGINE", help="Rewrite it for ENGINE[@VERSION][:limit=value]."
)
@click.option("--base", type=Word(), metavar="BASE", help="The base it is for: a name or a folder.")
@click.option("--rank", type=click.IntRange(min=1), help="Pad every module to this rank at least.")
@click.option(
    "--initial",
    type=FilledPath(),
    metavar="PATH-or-REF",
    help="The adapter as PiSSA, OLoRA, CorDA or LoRA-GA began with it.",
)
@alias_option
@tag_option
@click.option("--message", metavar="TEXT", help="Why, in words.")
@licence_option
@click.pass_obj
def convert(
    invocation: Invocation,
    source: str,
    *,
    to: str | None,
    into: str | None,
    for_engine: str | None,
    base: str | None,
    rank: int | None,
    initial: str | None,
    aliases: tuple[str, ...],
    tags: dict[str, str],
    message: str | None,
    licence: str | None,
) -> None:
    """Write an adapter anew: pickled weights as safetensors, or for an engine.

    With --for it is rewritten so that the engine loads it and computes its function.

    The rules look at the base too: --base, the one a version was pushed for, or what the config names.

    What the engine would refuse or compute otherwise is rewritten: scales, ranks, names, targets, initialisations.
    What cannot be is named, exit code 1, and nothing is written.

    Without it, adapter_model.bin is opened only if it asks for nothing but tensors, with torch's weights_only loader,
    in a process that can reach no file, network or other process. What is refused is not loadable here; what is not,
    is no more than loadable. Prints the folder, which `adapters push` takes.
    """
    if is_hub(source) or (to is not None and is_hub(to)):
        raise click.UsageError(
            "convert works from folder to folder; `adapters pull REF --to hf://org/name` writes there"
        )
    from registry.conversions.rewritten import RewriteResult

    with bars(invocation) as progress:
        result = invocation.registry.convert(
            source,
            to=to,
            into=into,
            for_engine=for_engine,
            base=base,
            rank=rank,
            initial=initial,
            aliases=aliases,
            tags=tags,
            message=message,
            licence=licence,
            progress=progress,
        )
    _notes(result)
    if isinstance(result, RewriteResult):
        emit(
            invocation,
            result,
            human=lambda: _rewritten_lines(invocation, result),
            quiet=lambda: [result.ref or str(result.path)],
        )
    else:
        emit(invocation, result, human=lambda: _lines(invocation, result), quiet=lambda: [str(result.path)])


def _notes(result: ConvertResult | RewriteResult) -> None:
    if result.left_out:
        note(f"left out: {', '.join(result.left_out)}")
    for text in getattr(result, "notes", ()):
        note(text)


def _rewritten_lines(invocation: Invocation, result: RewriteResult) -> Iterator[str]:
    exact = (
        "every number as it was"
        if not result.rounded
        else (f"{plural(result.rounded, 'tensor')} rounded, by {result.largest_change:.1g} at most")
    )
    yield from fields(
        {
            "version": result.ref,
            "path": None if result.path is None else str(result.path),
            "digest": result.digest,
            "for": result.target,
            "rewrites": ", ".join(result.rewrites) or "none needed",
            "rank": None if result.rank is None else str(result.rank),
            "rounding": exact,
        }
    )
    yield from finding_lines(invocation, result.findings)


def _lines(invocation: Invocation, result: ConvertResult) -> Iterator[str]:
    yield from fields(
        {
            "path": str(result.path),
            **{
                one.path: f"{plural(one.tensors, 'tensor')}, {size(one.size)}, from {one.source}"
                for one in result.converted
            },
        }
    )
    yield from finding_lines(invocation, result.findings)
