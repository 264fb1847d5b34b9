"""`tag set`, `tag rm`, `metric set`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verbs
from registry.cli.params import KeyValue, NameNumber, Reference, once
from registry.cli.shown.output import emit
from registry.cli.shown.text import fields, pairs

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation
    from registry.results import VersionInfo


@click.group(cls=Verbs, examples=["adapters tag set team/sql@3 task=sql stage=canary"])
def tag() -> None:
    """KEY=VALUE labels of a version."""


@tag.command("set", examples=["adapters tag set team/sql@3 task=sql stage=canary"])
@click.argument("ref", type=Reference())
@click.argument("tags", nargs=-1, required=True, type=KeyValue(), callback=once, metavar="KEY=VALUE...")
@click.pass_obj
def set_tags(invocation: Invocation, ref: str, tags: dict[str, str]) -> None:
    """Set labels of a version; a label that is there gets the new value."""
    _emit_labels(invocation, invocation.registry.set_tags(ref, tags))


@tag.command("rm", examples=["adapters tag rm team/sql@3 stage"])
@click.argument("ref", type=Reference())
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.pass_obj
def remove_tags(invocation: Invocation, ref: str, keys: tuple[str, ...]) -> None:
    """Remove labels of a version."""
    _emit_labels(invocation, invocation.registry.remove_tags(ref, keys))


@click.group(cls=Verbs, examples=["adapters metric set team/sql@3 accuracy=0.91"])
def metric() -> None:
    """NAME=NUMBER measurements of a version."""


@metric.command("set", examples=["adapters metric set team/sql@3 accuracy=0.91 loss=0.32"])
@click.argument("ref", type=Reference())
@click.argument("metrics", nargs=-1, required=True, type=NameNumber(), callback=once, metavar="NAME=NUMBER...")
@click.pass_obj
def set_metrics(invocation: Invocation, ref: str, metrics: dict[str, float]) -> None:
    """Record measurements of a version; one that is there gets the new number."""
    _emit_labels(invocation, invocation.registry.set_metrics(ref, metrics))


def _emit_labels(invocation: Invocation, info: VersionInfo) -> None:
    shown = {"ref": info.ref, "tags": pairs(info.tags) or "-", "metrics": pairs(info.metrics) or "-"}
    emit(invocation, info, human=lambda: fields(shown), quiet=lambda: [info.ref])
