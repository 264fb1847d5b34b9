"""`plan`, `impact`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference, Word
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.output import emit, note, styled
from registry.cli.shown.text import fields, number, plural, printable, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.capacity.plan import Capacity, Forcing
    from registry.cli.invocation import Invocation
    from registry.planning.hanging import HangingResult
    from registry.planning.impact import ImpactResult
    from registry.planning.plan import PlanResult

# A person reads so many lines; JSON has all.
_SHOWN = 20


@click.command(
    cls=Verb,
    examples=[
        "adapters plan --for vllm team/sql@prod team/chat@prod",
        "adapters plan --for sglang --base llama-3-8b --alias prod --memory 8GB",
        "adapters plan --for vllm@0.33.0 --base llama-3-8b --format json",
    ],
)
@click.argument("refs", type=Reference(), nargs=-1, metavar="REF...")
@click.option(
    "--for", "engine", required=True, type=Word(), metavar="ENGINE", help="vllm, sglang or own, with @VERSION at will."
)
@click.option("--base", type=Word(), metavar="BASE", help="The base it serves; without REF, its newest adapters.")
@click.option("--alias", type=Word(), metavar="ALIAS", help="Without REF: the versions that this alias names.")
@click.option("--max-loras", type=click.IntRange(min=1), metavar="N", help="So many on the device at once.")
@click.option("--memory", metavar="SIZE", help="So much room on the device, such as 8GB.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="As served; the base's own without."
)
@click.pass_obj
def plan(
    invocation: Invocation,
    refs: tuple[str, ...],
    *,
    engine: str,
    base: str | None,
    alias: str | None,
    max_loras: int | None,
    memory: str | None,
    dtype: str | None,
) -> int:
    """Plan the room that a server needs for adapters.

    The smallest rank it can be started with, the bytes of a slot, who forces the rank up, and the command. Adapters
    that the engine does not serve are named and left out: exit code 1, or 3 for a release that nobody read.
    """
    if refs and alias is not None:
        raise click.UsageError("--alias goes without REF")
    found = invocation.registry.plan(
        *refs, for_engine=engine, base=base, alias=alias, max_loras=max_loras, memory=memory, dtype=dtype
    )
    emit(
        invocation,
        found,
        human=lambda: _plan_lines(invocation, found),
        quiet=lambda: [] if found.command is None else [found.command],
    )
    for text in found.notes:
        note(text)
    return {"fail": 1, "inconclusive": 3}.get(found.status, 0)


@click.command(
    cls=Verb,
    examples=[
        "adapters impact --base llama-3-8b",
        "adapters impact --base llama-3-8b --to ./Llama-3.1-8B",
        "adapters impact --for vllm@0.31.0 --to vllm@0.33.0 --base llama-3-8b",
    ],
)
@click.option("--base", type=Word(), metavar="BASE", help="The base that is replaced, or whose adapters count.")
@click.option(
    "--for", "engine", type=Word(), metavar="ENGINE", help="The serving engine that is replaced, as vllm@0.31.0."
)
@click.option("--to", metavar="TO", help="What replaces it: a base's name or PATH, or an engine.")
@click.pass_obj
def impact(invocation: Invocation, *, base: str | None, engine: str | None, to: str | None) -> int:
    """Show what breaks when a base or a serving engine is replaced.

    With --base alone: what hangs on it. Else the newest version of each adapter and those that an alias names are
    judged before and after, by stored facts. Exit code 1 where some break, 3 where a release is not known.
    """
    from registry.planning.hanging import HangingResult

    if engine is not None and to is None:
        raise click.UsageError("--for goes with --to")
    if engine is None and base is None:
        raise click.UsageError("expected --base, or --for and --to")
    found = invocation.registry.impact(base=base, for_engine=engine, to=to)
    if isinstance(found, HangingResult):
        emit(invocation, found, human=lambda: _hanging_lines(found), quiet=lambda: [one.ref for one in found.versions])
        return 0
    emit(
        invocation,
        found,
        human=lambda: _impact_lines(invocation, found),
        quiet=lambda: [change.ref for change in found.changes if change.breaks],
    )
    for text in found.notes:
        note(text, kind="warning")
    return 1 if found.breaks else 3 if found.unknown else 0


def _plan_lines(invocation: Invocation, found: PlanResult) -> Iterator[str]:
    if found.capacity is not None:
        yield from fields(_room(found, found.capacity))
        yield from _forcing_lines(found.capacity.forced_by)
        header = ("ADAPTER", "RANK", "FROM", "STORED", "SERVED")
        rows = [
            (room.ref, number(room.rank), room.where or "-", size(room.stored_bytes), size(room.served_bytes))
            for room in found.capacity.adapters[:_SHOWN]
        ]
        yield from table(header, rows, right=("RANK", "STORED", "SERVED"))
        yield from _more(len(found.capacity.adapters), "adapter")
    yield from finding_lines(invocation, found.findings[:_SHOWN])
    yield from _more(len(found.findings), "finding")
    if found.command is not None:
        yield printable(found.command)


def _room(found: PlanResult, room: Capacity) -> dict[str, str | None]:
    least = "" if room.exact else "at least "
    without = room.without
    smaller = None if without is None else f"{without.max_lora_rank}, {least}{size(without.slot_bytes)} a slot"
    return {
        "engine": " ".join(filter(None, (found.engine, found.version))),
        "base": found.base,
        "adapters": f"{len(room.adapters)} of {found.asked}",
        "max_lora_rank": str(room.max_lora_rank),
        "max_loras": f"{room.max_loras}, one of them for the base" if room.base_slot else str(room.max_loras),
        "max_cpu_loras": str(room.max_cpu_loras),
        "slot": f"{least}{size(room.slot_bytes)} ({plural(room.layers, 'layer')}, {room.dtype})",
        "device": f"{least}{size(room.device_bytes)}",
        "host": size(room.host_bytes),
        "targets": " ".join(room.targets),
        "targets alone": None if room.targets_slot_bytes is None else f"{size(room.targets_slot_bytes)} a slot",
        "next smaller": smaller,
    }


def _forcing_lines(forced: Sequence[Forcing]) -> Iterator[str]:
    for one in islice(forced, _SHOWN):
        where = "" if one.where is None else f" by {one.where}"
        first = "no module has it" if one.module is None else f"{plural(one.modules, 'module')}, first {one.module}"
        yield printable(
            f"forced up: {one.ref} asks for {one.rank}{where} ({first}); "
            f"{number(one.without)} without it, {number(one.without_modules)} without that"
        )
    yield from _more(len(forced), "adapter")


def _hanging_lines(found: HangingResult) -> Iterator[str]:
    checks = [
        f"{target} " + ", ".join(f"{count} {status}" for status, count in counts.items())
        for target, counts in found.checks.items()
    ]
    yield from fields(
        {
            "base": found.base,
            "adapters": str(found.adapters),
            "versions": str(len(found.versions)),
            "merges": str(len(found.merges)),
            "aliases": str(found.aliases),
            "checks": "; ".join(checks) or None,
        }
    )
    rows = [(one.ref, one.how, ",".join(one.aliases), " ".join(one.merged_from)) for one in found.versions]
    yield from table(("VERSION", "BY", "ALIASES", "MERGED FROM"), rows)


def _impact_lines(invocation: Invocation, found: ImpactResult) -> Iterator[str]:
    yield printable(
        f"{found.before} -> {found.after}: {found.breaks} of {plural(found.looked_at, 'version')} break, "
        f"{len(found.changes)} change"
    )
    for change in found.changes:
        names = f" ({', '.join(change.aliases)})" if change.aliases else ""
        said = f"{change.before} -> {change.after}"
        colour = "red" if change.breaks else "yellow"
        yield f"{printable(change.ref + names)}  {styled(invocation, said, colour=colour)}"
        for finding in change.new[:_SHOWN]:
            yield f"  {printable(finding.rule)}  {printable(finding.message)}"
            if finding.fix:
                yield f"    fix: {printable(finding.fix)}"


def _more(count: int, noun: str) -> Iterator[str]:
    if count > _SHOWN:
        yield f"and {plural(count - _SHOWN, f'more {noun}')}; --format json has all"
