"""What one adapter does to one stored tensor: the table of frozen values."""

from engine.materialize.changes.lowrank import LowRank

CHANGES = {kind.__name__: kind for kind in (LowRank,)}
"""Every change by its name."""
