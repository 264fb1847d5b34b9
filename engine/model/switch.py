"""Which slots are on, for every site of a model at once; each thread has its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.batch import BatchPlan


class Switch(threading.local):
    """`plan` is what the next forward in this thread does; None: the base alone."""

    plan: BatchPlan | None = None
