"""Digests as text: `sha256:` + 64 lower-case hex. Nothing else is ever turned into a path."""

from __future__ import annotations

import hashlib
import re

from registry.errors import UsageError

_FULL = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def digest_of(content: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def is_digest(text: str) -> bool:
    """Whether this is a whole digest."""
    return _FULL.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hex characters, safe as a file name; UsageError for anything that is no whole digest."""
    if not is_digest(digest):
        raise UsageError(f"{digest[:100]!r} is not a digest: expected sha256: and 64 lower-case hex digits")
    return digest.removeprefix("sha256:")
