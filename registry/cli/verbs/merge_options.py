"""The options of `merge`, which are many: what to combine, how, at which rank, and what to do with the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli.params import FilledPath, Rank, Reference, Weights, Word

if TYPE_CHECKING:
    from collections.abc import Callable

_F = TypeVar("_F", bound="Callable[..., Any]")


class Grid(click.ParamType[tuple[tuple[float, ...], ...]]):
    """Rows of weights: `0.7,0.3;0.5,0.5`."""

    name = "grid"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[float, ...], ...]:
        """The rows."""
        if isinstance(value, tuple):
            return value
        rows = [row for row in str(value).split(";") if row.strip()]
        return tuple(Weights().convert(row, param, ctx) for row in rows)


_OPTIONS = (
    click.option("--into", type=Reference(), metavar="NAME", help="The adapter that gets the new version."),
    click.option("--weights", type=Weights(), metavar="W,W", help="One number a REF, of any sign. Default: 1/n each."),
    click.option(
        "--weights-grid", type=Grid(), metavar="W,W;W,W", help="A version for each row, the parents factored once."
    ),
    click.option("--combination", type=Word(), metavar="METHOD", help="The method, svd where none is given."),
    click.option("--spec", type=FilledPath(), metavar="FILE", help="A recipe: parents, weights, method, parameters."),
    click.option("--rerun", type=Reference(), metavar="REF", help="Repeat the merge that made REF, and compare."),
    click.option("--rank", type=Rank(), metavar="N|max", help="Rank of the result; max keeps everything."),
    click.option("--energy", type=float, metavar="E", help="The fewest ranks of each module that keep this share."),
    click.option("--budget", metavar="SIZE", help="The best ranks within this size of the file, such as 50MB."),
    click.option("--report-plot", type=FilledPath(), metavar="FILE", help="Draw the report: a new .png or .svg."),
    click.option("--dtype", metavar="D", help="Dtype of the result. Default: the widest parent's."),
    click.option(
        "--semantics",
        type=click.Choice(["exact", "peft"]),
        help="exact (default): the papers' definitions on the ΔW; peft: what peft 0.21.2 computes.",
    ),
    click.option("--density", type=float, metavar="D", help="Share of elements kept, in (0, 1]."),
    click.option("--trim", type=click.Choice(["tensor", "global"]), help="Count that share per module, or over all."),
    click.option("--rescale", type=click.Choice(["density", "none"]), help="Divide what is kept by the density."),
    click.option("--elect", type=click.Choice(["weighted", "unweighted"]), help="Whether weights count in elections."),
    click.option(
        "--majority-sign", type=click.Choice(["total", "frequency"]), help="Elect signs by magnitudes or by numbers."
    ),
    click.option("--lambda", "lambda_", type=float, metavar="X", help="Multiplies the result."),
    click.option("--seed", type=int, metavar="N", help="Decides what is drawn at random. Default: 0."),
    click.option(
        "--other",
        type=click.Choice(["average", "first", "refuse"]),
        help="Full copies, biases and tokens that several parents trained. Default: refuse.",
    ),
    click.option("--base", type=FilledPath(), metavar="PATH", help="The base's checkpoint, which DoRA parents need."),
    click.option("--device", metavar="D", help="cpu (default), cuda or cuda:N."),
    click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads. Default: one a core."),
    click.option("--dry-run", is_flag=True, help="Compute the report and publish nothing."),
    click.option("--assume-same-base", is_flag=True, help="Merge although the parents name different bases."),
)


def merge_options(command: _F) -> _F:
    """The command with these options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
