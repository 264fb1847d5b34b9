"""The `adapters` command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and leave with its exit code (design section 6)."""
    gc.set_threshold(100_000)  # imports make many objects that stay: collecting among them costs a sixth of a `list`
    try:
        from registry.cli.failure import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the imports were still running
        code = 130
    if "torch" not in sys.modules:  # its extensions count what is not collected, and complain
        gc.freeze()  # what is left goes with the process: collecting it once more costs a fifth of a `list`
    raise SystemExit(code)
