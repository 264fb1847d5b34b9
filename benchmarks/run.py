"""Every benchmark in turn; their output is what RESULTS.md quotes. Takes about half an hour on two quiet cores."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "startup.py",
    "completion.py",
    "transfer.py",
    "object_store.py",
    "pull_warm.py",
    "merge_svd.py",
    "merge_llama.py",
    "merge_methods.py",
    "catalog.py",
    "engine_plans.py",
    "engine_batches.py",
    "engine_swap.py",
    "hotswap_image.py",
)


def main():
    for script in SCRIPTS:
        print(f"\n== {script}", flush=True)
        subprocess.run([sys.executable, HERE / script], check=False)


if __name__ == "__main__":
    main()
