"""DARE's masks, from a counter-based generator: every element's draw is a function of what it belongs to alone.

The generator is Philox4x64-10 (Salmon, Moraes, Dror and Shaw 2011) in numpy's C. Its key is made from the seed, the
digest of the parent's tensors, the module and the group; its 64-bit words, halved (the low half first), are the draws
of the elements in the flat order of the ΔW. Blocks, threads and devices do not enter.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from engine.merge.table import Site

DRAWS = 8
"""32-bit draws of one step of the counter: four words of 64 bits."""


def mask_key(seed: int, digest: str, module: str, group: int) -> int:
    """The generator's key, 128 bits, of one parent in one module or group."""
    text = json.dumps([seed, digest, module, group], ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def draws(key: int, start: int, count: int) -> NDArray[np.uint32]:
    """The draws of the elements `start` to `start + count`, uniform over 0 to 2**32 - 1."""
    step, skipped = divmod(start, DRAWS)
    # numpy steps the counter before it draws.
    generator = np.random.Generator(np.random.Philox(counter=(step - 1) % 2**256, key=key))
    words = -(-(skipped + count) // 2)
    found = generator.integers(0, 2**64 - 1, endpoint=True, dtype=np.uint64, size=words)
    return found.astype("<u8", copy=False).view("<u4")[skipped : skipped + count]


def mask(key: int, density: float, start: int, count: int) -> Tensor:
    """Which of the elements `start` to `start + count` are kept, each with probability `density`; bool.

    The probability is `density` to the nearest 2**-32.
    """
    reach = round(density * 2**32)
    if reach == 2**32:
        return torch.ones(count, dtype=torch.bool)
    return torch.from_numpy(draws(key, start, count) < np.uint32(reach))


def mask_keys(site: Site) -> Sequence[int]:
    """The generator's key of each part of a site."""
    seed = site.options.seed or 0
    return [mask_key(seed, digest, site.module, site.group) for digest in site.keys]
