"""How long to wait before another try: a random part of a growing pause, so that who collided once does not again."""

from __future__ import annotations

import random


def pause(turn: int, *, first: float, longest: float) -> float:
    """Seconds between 0 and `first`, which doubles with each failed try (`turn`, from 0) up to `longest`.

    Full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(longest, first * 2**turn))  # noqa: S311 (spreads load, guards no secret)
