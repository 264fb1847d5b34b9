"""Which torch may open a pickle."""

from __future__ import annotations

import re

NEEDED = "2.10"
"""The first release whose weights_only loader has no known hole: CVE-2025-32434 ends at 2.6, CVE-2026-24747 at 2.10."""


def is_enough(version: str) -> bool:
    """Whether `version` of torch is a release from NEEDED on; a pre-release of NEEDED itself is none."""
    found = re.match(r"(\d+)\.(\d+)((?:\.\d+)*)([^+]*)", version)
    if found is None:
        return False
    release = (int(found[1]), int(found[2]))
    least = tuple(map(int, NEEDED.split(".")))
    return release > least or (release == least and not found[4])
