"""The model card that a version gets on the Hub: front matter, lineage, merge report, below the author's own text."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.hub.frontmatter import with_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.results import VersionDetail

_BEGIN, _END = "<!-- adapters: begin -->", "<!-- adapters: end -->"
_OURS = re.compile(rf"\n*{_BEGIN}.*?{_END}\n*", re.DOTALL)
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Card:
    """A README.md as it is written to the Hub; `added` are the front matter's fields that the author had not given."""

    text: str
    added: tuple[str, ...]


def make_card(own: str | None, version: VersionDetail, licence: str | None) -> Card:
    """The card of a version whose own README is `own`. The same version gives the same card, byte for byte.

    Asked again with its own result it changes nothing, so that a card may travel to the Hub and back.
    """
    text = _OURS.sub("\n", own).rstrip("\n") + "\n" if own else f"\n# {_shown(version.name)}\n"
    carded, added = with_fields(text, _fields(version, licence))
    section = "\n".join([_BEGIN, *_body(version), _END])
    return Card(f"{carded}\n{section}\n", added)


def _fields(version: VersionDetail, licence: str | None) -> dict[str, Any]:
    base = next((name for name in _base_names(version) if _MODEL.fullmatch(name)), None)
    merged = _is_merge(version)
    tags = [version.peft_type.lower(), *(["merge"] if merged else [])]
    fields = {
        "base_model": base,
        "base_model_relation": None if base is None else "merge" if merged else "adapter",
        **_licence(licence),
        "library_name": "peft",
        "tags": tags,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _base_names(version: VersionDetail) -> Iterator[str]:
    """What the config calls the base, then what the catalog does: only names of the Hub mean anything there."""
    for name in (version.config.get("base_model_name_or_path"), version.base):
        if isinstance(name, str):
            yield name


def _licence(name: str | None) -> dict[str, str]:
    if not name:
        return {}
    word = name.strip().lower()
    return {"license": word} if _LICENCE.fullmatch(word) else {"license": "other", "license_name": word}


def _is_merge(version: VersionDetail) -> bool:
    return version.report is not None or any(edge.relation == "merged_from" for edge in _parents(version))


def _parents(version: VersionDetail) -> Sequence[Any]:
    edges = version.lineage.edges
    return [edge for edge in edges if edge.child == version.ref and edge.relation != "base"]


def _body(version: VersionDetail) -> Iterator[str]:
    yield "## Lineage"
    yield ""
    yield f"Version `{version.ref}`, digest `{version.digest}`."
    if version.base:
        yield f"Base model: {_shown(version.base)}."
    if parents := _parents(version):
        yield ""
        rows = [(edge.relation, f"`{edge.parent}`", _number(edge.weight)) for edge in parents]
        yield from _table(("relation", "parent", "weight"), rows)
    if version.report:
        yield ""
        yield from _report(version.report)


def _report(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Merge report"
    yield ""
    facts = ("method", "rank", "dtype", "modules", "norm", "energy_kept", "relative_error")
    yield from _table(facts, [tuple(_number(report.get(fact)) for fact in facts)])
    yield ""
    parts = ("ref", "weight", "norm", "cosine", "retention", "share")
    rows = [tuple(_number(parent.get(part)) for part in parts) for parent in report.get("parents", ())]
    yield from _table(("parent", *parts[1:]), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else _shown(str(value))


def _shown(text: str) -> str:
    """Text on one line that Markdown and HTML leave alone."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
