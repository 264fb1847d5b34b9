"""What errors say."""

from engine.compat.finding import Finding
from engine.errors import RefusedError


def refused(count):
    return RefusedError([Finding("rule", "error", f"reason {place}") for place in range(1, count + 1)])


def test_a_refusal_tells_every_reason_of_a_few():
    assert str(refused(1)) == "reason 1"
    assert str(refused(3)) == "reason 1; reason 2; reason 3"


def test_a_refusal_counts_the_rest_of_many():
    """All of them are in `findings`, which commands print."""
    assert str(refused(5)) == "reason 1; reason 2; reason 3; and 2 more"
    assert len(refused(5).findings) == 5
