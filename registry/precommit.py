"""`python -m registry.precommit [OPTION]... FILE...`: checks the folders of the files that pre-commit names."""

from __future__ import annotations

import sys
from pathlib import PurePath

from registry.cli.failure import run


def check_line(arguments: list[str]) -> list[str]:
    """The command line for files: options as they are, each adapter's folder once, as a path."""
    options = [text for text in arguments if text.startswith("-")]
    folders = dict.fromkeys(_folder(text) for text in arguments if not text.startswith("-"))
    return ["check", *options, "--", *folders]


def _folder(file: str) -> str:
    parent = str(PurePath(file).parent)
    return parent if parent.startswith("/") else f"./{parent}"


if __name__ == "__main__":
    raise SystemExit(run(check_line(sys.argv[1:])))
