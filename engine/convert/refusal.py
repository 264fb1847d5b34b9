"""Why a pickle is not taken, on its way to the reader that knows the path."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - carries a verdict, which becomes a NotLoadableError where the path is known
    """`position` is a byte within `part`, a member of the zip or the file itself."""

    def __init__(
        self,
        reason: str,
        *,
        opcode: str | None = None,
        name: str | None = None,
        position: int | None = None,
        part: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.opcode = opcode
        self.name = name
        self.position = position
        self.part = part
