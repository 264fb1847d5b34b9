"""The model card of an adapter or a base: what the front matter of its README.md says of the licence.

The keys are the Hub's: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.origins.provenance import parse_licence

if TYPE_CHECKING:
    from pathlib import Path

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says of its licence: the identifier, and why it could not be read."""

    licence: str | None = None
    problem: str | None = None


def read_card(folder: Path) -> Card:
    """The card of a folder; empty where there is none or it says nothing."""
    path = folder / CARD
    if not path.is_file():
        return Card()
    from registry.origins.frontmatter import LONGEST

    with path.open("rb") as stream:
        return card_of(stream.read(LONGEST))


def card_of(content: bytes) -> Card:
    """The card in some bytes, of which at most the first megabyte is looked at."""
    from registry.origins.frontmatter import LONGEST, front_matter

    block = front_matter(content[:LONGEST].decode("utf-8", "replace"))
    if block is None:
        return Card()
    said = block.fields
    names = [name.strip() for name in said.get("license", ()) if name.strip()]
    if [name.lower() for name in names] == ["other"] and said.get("license_name"):
        names = [said["license_name"][0]]  # the Hub's way to name a licence that it has no identifier for
    try:
        return Card(parse_licence(" and ".join(names)) if names else None, block.problem)
    except UsageError as problem:
        return Card(problem=str(problem))
