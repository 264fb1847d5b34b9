"""`convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.findings import finding_lines
from registry.cli.output import emit, note
from registry.cli.params import FilledPath
from registry.cli.progress import bars
from registry.cli.text import fields, plural, size
from registry.hub.place import is_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.results import ConvertResult


@click.command(
    cls=Verb,
    examples=[
        "adapters convert ./old-lora --to ./old-lora-safetensors",
        "adapters push $(adapters convert ./old-lora --to ./new-lora --format quiet) team/old",
    ],
)
@click.argument("path", type=FilledPath())
@click.option("--to", type=FilledPath(), required=True, metavar="DIR", help="Write the adapter to this new folder.")
@click.pass_obj
def convert(invocation: Invocation, path: str, *, to: str) -> None:
    """Write an adapter with pickled weights anew, as safetensors.

    Opens adapter_model.bin only if it asks for nothing but tensors, with torch's weights_only loader, in a process
    that can reach no file, network or other process. What is refused is not loadable here; what is not, is no more
    than loadable. Prints the folder, which `adapters push` takes.
    """
    if is_hub(path) or is_hub(to):
        raise click.UsageError(
            "convert works from folder to folder; `adapters pull REF --to hf://org/name` writes there"
        )
    with bars(invocation) as progress:
        result = invocation.registry.convert(path, to=to, progress=progress)
    if result.left_out:
        note(f"left out: {', '.join(result.left_out)}")
    emit(invocation, result, human=lambda: _lines(invocation, result), quiet=lambda: [str(result.path)])


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
