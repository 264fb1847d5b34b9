"""Why a pickle is not taken, on its way to the reader that knows the path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from engine.errors import Spot


class Refusal(Exception):  # noqa: N818 - carries a verdict, which becomes a NotLoadableError where the path is known
    """A reason, and the spot as far as it is known."""

    def __init__(self, reason: str, **spot: Unpack[Spot]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.spot = spot
