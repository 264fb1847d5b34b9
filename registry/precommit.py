"""`python -m registry.precommit [OPTION]... FILE...`: checks the folders of the files that pre-commit names."""

from __future__ import annotations

import re
import sys
from pathlib import PurePath

from registry.cli.failure import run

# What the hook's `files` lets through. A folder may be called as an option is: by its end it is a file all the same.
_FILE = re.compile(r"(^|/)adapter_(config\.json|model\.safetensors)$")


def check_line(arguments: list[str]) -> list[str]:
    """The command line for files: options as they are, each adapter's folder once, as a path."""
    options = [text for text in arguments if not _FILE.search(text)]
    folders = dict.fromkeys(_folder(text) for text in arguments if _FILE.search(text))
    return ["check", *options, "--", *folders]


def _folder(file: str) -> str:
    parent = str(PurePath(file).parent)
    return parent if parent.startswith("/") else f"./{parent}"


if __name__ == "__main__":
    raise SystemExit(run(check_line(sys.argv[1:])))
