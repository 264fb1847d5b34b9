"""Reads single files out of released wheels on the package index, without installing or downloading the whole."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile
from pathlib import Path

from pip._internal.models.index import PyPI

CACHE = Path(__file__).parents[2] / ".pytest_cache" / "d" / "engines"
_BLOCK = 1 << 19
_TIMEOUT = 60


class Remote(io.RawIOBase):
    """A file behind a URL, read by ranges."""

    def __init__(self, url, size):
        self._url, self._size, self._at = url, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._at

    def seek(self, offset, whence=0):
        self._at = {0: 0, 1: self._at, 2: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer):
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        wanted = urllib.request.Request(self._url, headers={"Range": f"bytes={self._at}-{self._at + count - 1}"})
        with urllib.request.urlopen(wanted, timeout=_TIMEOUT) as answer:
            assert answer.status == 206, "the package index serves no ranges"
            data = answer.read()
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def listing(package):
    """The index's entry for every file of a package."""
    wanted = urllib.request.Request(
        f"{PyPI.simple_url}/{package}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(wanted, timeout=_TIMEOUT) as answer:
        return json.load(answer)["files"]


def files_of(package, release, members, *, entries=None):
    """Text of the wheel's files whose path one of `members` matches (a glob), by path; from the cache where it was read.

    Raises OSError without a network.
    """
    kept = CACHE / f"{package}-{release}"
    done = kept / ".members"
    if not done.is_file() or json.loads(done.read_text()) != sorted(members):
        _fetch(package, release, members, entries or listing(package), kept)
        done.write_text(json.dumps(sorted(members)))
    return {path.relative_to(kept).as_posix(): path.read_text(encoding="utf-8") for path in sorted(kept.rglob("*.py"))}


def folder_of(package, release):
    """Where `files_of` keeps a release's files."""
    return CACHE / f"{package}-{release}"


def _fetch(package, release, members, entries, kept):
    wheels = [
        entry
        for entry in entries
        if entry["filename"].startswith(f"{package}-{release}-") and entry["filename"].endswith(".whl")
        and ("x86_64" in entry["filename"] or "none-any" in entry["filename"])
    ]  # fmt: skip
    assert wheels, f"{package} {release} has no wheel"
    reader = io.BufferedReader(Remote(wheels[0]["url"], wheels[0]["size"]), _BLOCK)
    with zipfile.ZipFile(reader) as wheel:
        for name in wheel.namelist():
            if any(Path(name).match(pattern) for pattern in members):
                place = kept / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(wheel.read(name))
