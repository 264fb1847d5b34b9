"""`show`, `log`, `lineage`, `which`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference
from registry.cli.shown.output import emit
from registry.cli.shown.text import moment, number, table
from registry.cli.shown.version import detail_lines, edge_lines
from registry.cli.verbs.listing import emit_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import LogEntry


@click.command(
    cls=Verb,
    examples=[
        "adapters show team/sql@prod",
        "adapters show team/sql@3 --format json",
        "adapters show team/both --energy 0.97",
    ],
)
@click.argument("ref", type=Reference())
@click.option("--energy", type=float, metavar="E", help="Add the rank that each module of a merge needs to keep E.")
@click.pass_obj
def show(invocation: Invocation, ref: str, *, energy: float | None) -> None:
    """Show everything about a version.

    JSON holds every module, the whole config, the recipe and the merge report. With --energy 0.97: the fewest ranks of
    each module that keep 97 % of the squared norm a merge aimed at, from the spectra it stored; no tensor is read.
    """
    found = invocation.registry.show(ref, energy=energy)
    emit(invocation, found, human=lambda: detail_lines(invocation, found), quiet=lambda: [found.ref])


@click.command(cls=Verb, examples=["adapters log team/sql"])
@click.argument("name", type=Reference())
@click.pass_obj
def log(invocation: Invocation, name: str) -> None:
    """Show an adapter's versions and alias moves in order."""
    entries = invocation.registry.log(name)
    emit(
        invocation,
        entries,
        human=lambda: _log_lines(entries),
        quiet=lambda: [entry.ref for entry in entries if entry.ref],
    )


@click.command(cls=Verb, examples=["adapters lineage team/both", "adapters lineage team/sql@1 --down --format json"])
@click.argument("ref", type=Reference())
@click.option("--up", is_flag=True, help="Only what it comes from.")
@click.option("--down", is_flag=True, help="Only what came from it.")
@click.pass_obj
def lineage(invocation: Invocation, ref: str, *, up: bool, down: bool) -> None:
    """Show what a version comes from and what came from it.

    Without --up or --down, both.
    """
    graph = invocation.registry.lineage(ref, up=up or not down, down=down or not up)
    emit(invocation, graph, human=lambda: edge_lines(graph), quiet=lambda: [node.id for node in graph.nodes])


@click.command(cls=Verb, examples=["adapters which ./adapter_model.safetensors"])
@click.argument("file", type=click.Path())
@click.pass_obj
def which(invocation: Invocation, file: str) -> None:
    """Find the versions that hold a file, or its tensors.

    Tensors are found again under another header or in another order; deleted versions until gc frees them. Exit
    code 4 where no version holds them.
    """
    emit_versions(invocation, invocation.registry.which(file))


def _log_lines(entries: Sequence[LogEntry]) -> Iterator[str]:
    header = ("AT", "WHAT", "VERSION", "BEFORE", "BY", "MESSAGE")
    rows = [
        (
            moment(entry.at),
            entry.action if entry.alias is None else f"alias {entry.alias}: {entry.action}",
            number(entry.version),
            number(entry.from_version),
            entry.actor or "-",
            entry.message or "",
        )
        for entry in entries
    ]
    yield from table(header, rows, right=("VERSION", "BEFORE"))
