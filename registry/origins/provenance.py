"""Where a version comes from: who pushed it, which commit, run and data made it, under which licence.

Each value is a claim with its source. The first source that says something counts, field by field:

| source | as `show` names it | may say |
|---|---|---|
| a flag, or Python's argument | `flag` | git_commit, run_id, data_digest, licence |
| the parents of a merge | `parents` | licence |
| adapters.provenance.json in the folder | its name | git_commit, run_id, data_digest, licence, metrics |
| the card's front matter | `README.md` | licence |
| the environment | the variable | pushed_by, git_commit, run_id |
| `[provenance]` of adapters.toml | the file's name | git_commit, run_id, data_digest, licence |

A card's `model-index` gives no metrics: trainers copy it on with the card, so its numbers may be another adapter's or
the base's, and task, dataset and split would have to be pressed into one name. A metric here is one that somebody gave
this version: by --metric, the sidecar, or `adapters metric set`. Records keep claims; who made them, the catalog does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIELDS = ("git_commit", "run_id", "data_digest", "licence")
FLAG, PARENTS = "flag", "parents"
LONGEST = 256
_COMMIT = re.compile(r"[0-9a-f]{7,64}", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9](?:[a-z0-9 .,()+_/:-]*[a-z0-9)+])?", re.ASCII)
NO_LICENCE = "none"


@dataclass(frozen=True, slots=True)
class Claim:
    """A value and who says so."""

    value: str
    source: str


def first(*layers: Mapping[str, Claim]) -> dict[str, Claim]:
    """Field by field the claim of the first layer that has one."""
    return {name: claim for layer in reversed(layers) for name, claim in layer.items()}


def claims(values: Mapping[str, str | None], source: str) -> dict[str, Claim]:
    """What one source says, each value checked; UsageError names the field and the source."""
    found: dict[str, Claim] = {}
    for name, value in values.items():
        if value is not None:
            try:
                found[name] = Claim(PARSERS[name](value), source)
            except UsageError as error:
                raise UsageError(str(error) if source == FLAG else f"{source}: {error}") from None
    return found


def parse_commit(text: str) -> str:
    """A commit as git writes it: 7 to 64 hexadecimal digits, in lower case."""
    folded = text.strip().lower()
    if not _COMMIT.fullmatch(folded):
        raise UsageError(f"git commit {text[:120]!r}: expected 7 to 64 hexadecimal digits")
    return folded


def parse_licence(text: str) -> str:
    """A licence's identifier as the Hub or SPDX spells it, in lower case; several are joined by ` and `."""
    folded = text.strip().lower()
    if len(folded) > LONGEST or not _LICENCE.fullmatch(folded) or folded == NO_LICENCE:
        raise UsageError(f"licence {text[:120]!r}: expected an identifier such as apache-2.0, at most {LONGEST} long")
    return folded


def parse_run(text: str) -> str:
    """A run's id in whatever tracks runs: printable, without spaces."""
    return _word("run id", text)


def parse_data(text: str) -> str:
    """What names the training data exactly, such as `sha256:…`: printable, without spaces."""
    return _word("data digest", text)


def _word(what: str, text: str) -> str:
    if not 0 < len(text) <= LONGEST or not text.isprintable() or " " in text:
        raise UsageError(f"{what} {text[:120]!r}: expected 1 to {LONGEST} printable characters without spaces")
    return text


PARSERS: dict[str, Callable[[str], str]] = {
    "git_commit": parse_commit,
    "run_id": parse_run,
    "data_digest": parse_data,
    "licence": parse_licence,
}
