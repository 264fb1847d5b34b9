"""The kinds of modules that adapters act on, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.kinds.conv import CONV
from engine.model.kinds.embedding import EMBEDDING
from engine.model.kinds.linear import LINEAR
from engine.model.kinds.norms import NORM
from engine.model.kinds.parameter import PARAMETER
from engine.model.kinds.saved import SAVED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.model.kinds.kind import Kind

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (LINEAR, EMBEDDING, CONV, NORM, PARAMETER, SAVED)}
