"""What a push learns of its version's provenance: flags, sidecar, card and surroundings together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.compat.rule import Licensing
from registry.origins.card import CARD, Card, read_card
from registry.origins.provenance import Claim, first
from registry.origins.sidecar import Sidecar, read_sidecar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origin:
    """Claims by field, metrics that the sidecar gave, and why the card's licence could not be read."""

    claims: Mapping[str, Claim]
    metrics: Mapping[str, float]
    problem: str | None = None

    def value(self, field: str) -> str | None:
        """What is claimed of a field."""
        claim = self.claims.get(field)
        return None if claim is None else claim.value

    def licensing(self, base: str | None = None) -> Licensing:
        """What the check-in rules look at, beside the licence of the base."""
        return Licensing(self.value("licence"), base, self.problem)

    @property
    def sources(self) -> dict[str, str]:
        """Who says so, by field."""
        return {field: claim.source for field, claim in sorted(self.claims.items())}


def origin(sidecar: Sidecar, staged: Path, *, given: Mapping[str, Claim], surroundings: Mapping[str, Claim]) -> Origin:
    """The first claim of each field, in the order that registry/origins/provenance.py states."""
    card = read_card(staged)
    found = first(given, sidecar.claims, card_claims(card), surroundings)
    return Origin(found, sidecar.metrics, card.problem)


def folder_origin(folder: Path) -> Origin:
    """What a folder alone says, for a check that publishes nothing."""
    return origin(read_sidecar(folder), folder, given={}, surroundings={})


def base_licence(place: Path) -> str | None:
    """What the card beside a base says, given by its folder or a file in it."""
    return read_card(place if place.is_dir() else place.parent).licence


def card_claims(card: Card) -> dict[str, Claim]:
    """The licence, where the card names one."""
    return {} if card.licence is None else {"licence": Claim(card.licence, CARD)}
