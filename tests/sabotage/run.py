"""Breaks one thing after the other in a copy of the project, and says whether the tests saw it; 1 if any went unseen.

python -m tests.sabotage.run [NAME]…
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sabotage.rows import ROWS

PROJECT = Path(__file__).resolve().parents[2]
LONGEST_S = 300


def main(wanted):
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copy = Path(folder) / "project"
        left_out = shutil.ignore_patterns(".git", ".venv", "*_cache", ".hypothesis", "__pycache__", "demo-home")
        shutil.copytree(PROJECT, copy, ignore=left_out)
        unseen = [row.name for row in ROWS if (not wanted or row.name in wanted) and not is_seen(row, copy)]
    print(f"unseen: {', '.join(unseen) or 'none'}")
    return 1 if unseen else 0


def is_seen(row, copy):
    file = copy / row.file
    whole = file.read_text()
    file.write_text(whole.replace(row.right, row.wrong, 1))
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *row.tests.split()]
    command += ["-k", row.chosen] if row.chosen else []
    try:
        ran = subprocess.run(
            command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True,  # noqa: TID251 (about the machine, not the product)
            timeout=LONGEST_S, check=False,
        )  # fmt: skip
        seen, last = ran.returncode == 1, (ran.stdout.strip().splitlines() or [ran.stderr.strip()])[-1]
    except subprocess.TimeoutExpired:
        seen, last = True, f"no end within {LONGEST_S} s"
    finally:
        file.write_text(whole)
    print(f"{'red ' if seen else 'GREEN'}  {row.name}: {last}", flush=True)
    return seen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
