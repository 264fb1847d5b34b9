"""`base add`, `base list`, `base show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verbs
from registry.cli.params import FilledPath, Word
from registry.cli.shown.output import emit, note
from registry.cli.shown.text import fields, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.basemodels.baseinfo import BaseInfo
    from registry.cli.invocation import Invocation


@click.group(cls=Verbs, examples=["adapters base add ./Llama-3-8B --name llama-3-8b", "adapters base list"])
def base() -> None:
    """Base models that adapters were trained on."""


@base.command(
    "add",
    examples=[
        "adapters base add ./Llama-3-8B --name llama-3-8b --name meta-llama/Meta-Llama-3-8B",
        "adapters base add ./Llama-3-8B --revision 8cde5ca",
        "adapters base add ./Llama-3-8B --norms",
    ],
)
@click.argument("path", type=FilledPath())
@click.option("--name", "names", multiple=True, metavar="N", help="A name it goes by. Repeatable.")
@click.option("--revision", metavar="R", help="The revision this copy is of.")
@click.option("--norms", is_flag=True, help="Read all weights once and keep their norms, for `check`.")
@click.pass_obj
def add(invocation: Invocation, path: str, *, names: tuple[str, ...], revision: str | None, norms: bool) -> None:
    """Remember a base model by its tensors' names, shapes and samples.

    Reads safetensors headers and a few KiB of each tensor; a folder with only config.json gives shapes alone.
    """
    info = invocation.registry.add_base(path, names=names, revision=revision, norms=norms)
    for text in info.notes:
        note(text)
    _emit_base(invocation, info)


@base.command("list", examples=["adapters base list"])
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List the known base models."""
    found = invocation.registry.bases()
    emit(invocation, found, human=lambda: _table(found), quiet=lambda: [_identity(info) for info in found])


@base.command("show", examples=["adapters base show llama-3-8b"])
@click.argument("name", type=Word(), metavar="BASE")
@click.pass_obj
def show(invocation: Invocation, name: str) -> None:
    """Show a base model by any of its names."""
    _emit_base(invocation, invocation.registry.base(name))


def _emit_base(invocation: Invocation, info: BaseInfo) -> None:
    emit(invocation, info, human=lambda: _fields(info), quiet=lambda: [_identity(info)])


def _identity(info: BaseInfo) -> str:
    return info.names[0] if info.names else info.fingerprint or info.layout


def _fields(info: BaseInfo) -> Iterator[str]:
    return fields(
        {
            "names": ", ".join(info.names) or "-",
            "fingerprint": info.fingerprint or "- (no tensors were read)",
            "layout": info.layout,
            "architecture": info.architecture or "-",
            "model type": info.model_type or "-",
            "dtype": info.dtype or "-",
            "quantization": info.quantization,
            "tensors": f"{info.tensors:,}",
            "parameters": f"{info.parameters:,}",
            "norms": f"of {info.norms:,} weights" if info.norms else None,
            "revision": info.revision,
            "adapters": str(info.adapters),
        }
    )


def _table(found: Sequence[BaseInfo]) -> Iterator[str]:
    if found:
        header = ("NAMES", "ARCHITECTURE", "DTYPE", "PARAMETERS", "ADAPTERS")
        rows = [
            (
                " ".join(info.names),
                info.architecture or "-",
                info.dtype or "-",
                f"{info.parameters:,}",
                str(info.adapters),
            )
            for info in found
        ]
        yield from table(header, rows, right=("PARAMETERS", "ADAPTERS"))
