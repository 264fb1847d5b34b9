"""The `adapters` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code (design section 6)."""
    try:
        from registry.cli.failure import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the imports were still running
        code = 130
    raise SystemExit(code)
