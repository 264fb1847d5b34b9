"""One version, its modules and its lineage, for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.report import need_lines, report_lines
from registry.cli.shown.text import fields, moment, number, pairs, printable, size, table
from registry.findings.verdicts import CHECKIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import LineageGraph, VersionDetail


def detail_lines(invocation: Invocation, found: VersionDetail) -> Iterator[str]:
    """Facts, files, modules, lineage, findings, and the merge report where there is one."""
    yield from fields(_facts(found))
    yield ""
    files = [(item.path, size(item.size), item.sha256) for item in found.files]
    yield from table(("FILE", "SIZE", "DIGEST"), files, right=("SIZE",))
    findings = [Finding(**item) for item in found.findings]
    said = (_checks(found), finding_lines(invocation, findings))
    for lines in (module_lines(found.modules), _edges(found.lineage), *said):
        shown = list(lines)
        if shown:
            yield ""
            yield from shown
    if found.report:
        yield ""
        yield from report_lines(found.report)
    if found.ranks_for:
        yield ""
        yield from need_lines(found.ranks_for)


def module_lines(modules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for all modules of one last name, rank and scaling."""
    kinds = Counter(
        (str(module.get("name", "-")).rpartition(".")[2], module.get("rank"), module.get("scaling"))
        for module in modules
    )
    if kinds:
        rows = [(name, str(count), number(rank), number(scaling)) for (name, rank, scaling), count in kinds.items()]
        yield from table(("MODULES", "COUNT", "RANK", "SCALING"), rows, right=("COUNT", "RANK", "SCALING"))


def edge_lines(graph: LineageGraph) -> Iterator[str]:
    """One line an edge; a version that has none is named alone."""
    if graph.edges:
        yield from _edges(graph)
    else:
        yield from (printable(node.id) for node in graph.nodes)


def _checks(found: VersionDetail) -> Iterator[str]:
    """The questions besides check-in, and whatever is stale: what else is kept is what the findings below say."""
    told = [one for one in found.checks if one.stale or one.question != CHECKIN]
    if told:
        rows = [(one.question, f"{one.status} (stale)" if one.stale else one.status) for one in told]
        yield from table(("CHECK", "STATUS"), rows)


def _facts(found: VersionDetail) -> dict[str, str | None]:
    return {
        "ref": found.ref,
        "digest": found.digest,
        "tensors": found.tensors_digest,
        "base": found.base or "-",
        "type": found.peft_type,
        "rank": number(found.rank),
        "dtype": found.dtype or "-",
        "norm": number(found.norm),
        "size": size(found.size),
        "aliases": " ".join(found.aliases) or "-",
        "tags": pairs(found.tags) or "-",
        "metrics": pairs(found.metrics) or "-",
        "message": found.message,
        "pushed": f"{moment(found.created_at)} by {found.pushed_by or '-'}",
        **_provenance(found),
        "deleted": None if found.deleted_at is None else moment(found.deleted_at),
    }


def _provenance(found: VersionDetail) -> dict[str, str | None]:
    """Each value with who said it; the licence also where there is none."""
    said = {
        "licence": ("licence", found.licence or "-"),
        "commit": ("git_commit", found.git_commit),
        "run": ("run_id", found.run_id),
        "data": ("data_digest", found.data_digest),
    }
    return {
        label: f"{value}  ({found.sources[name]})" if name in found.sources else value
        for label, (name, value) in said.items()
    }


def _edges(graph: LineageGraph) -> Iterator[str]:
    if not graph.edges:
        return
    deleted = {node.id for node in graph.nodes if node.deleted}
    rows = [
        (
            _name(edge.child, deleted),
            edge.relation,
            _name(edge.parent, deleted),
            number(edge.weight),
        )
        for edge in graph.edges
    ]
    yield from table(("VERSION", "RELATION", "PARENT", "WEIGHT"), rows, right=("WEIGHT",))


def _name(identity: str, deleted: set[str]) -> str:
    return f"{identity} (deleted)" if identity in deleted else identity
