"""What one command costs from start to end: `adapters --help` and `adapters list` beside `hf version`.

    python benchmarks/startup.py [--runs 15]

Whole processes, in turn (A B C A B C …) so that a noisy moment hits all; user + system time by the kernel's account of
each finished child, and wall time. The registry holds three adapters, so `list` has something to say.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
ADAPTERS = Path(__file__).parent.parent / "examples" / "adapters"
ROWS = {
    "hf version": ["hf", "version"],
    "adapters --help": ["adapters", "--help"],
    "adapters list": ["adapters", "list"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="startup-") as home:
        environment = {**os.environ, "ADAPTERS_HOME": home, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        fill(environment)
        seconds = {name: [] for name in ROWS}
        for turn in range(runs + 2):
            for name, command in ROWS.items():
                cost = run(command, environment)
                if turn >= 2:  # the first two fill the page cache
                    seconds[name].append(cost)
    report(seconds, runs)


def fill(environment):
    for name in ("act", "progress", "act"):
        command = [BIN / "adapters", "push", ADAPTERS / name, f"bench/{name}"]
        subprocess.run(command, env=environment, check=True, capture_output=True)


def run(command, environment):
    """(user + system, wall) seconds of one process."""
    began = time.perf_counter()
    before = os.times()
    subprocess.run([BIN / command[0], *command[1:]], env=environment, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, time.perf_counter() - began


def report(seconds, runs):
    base = [statistics.median(column) for column in zip(*seconds["hf version"], strict=True)]
    print(f"{runs} runs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'':18}{'cpu median':>12}{'min':>8}{'max':>8}{'ratio':>8}{'wall median':>14}{'min':>8}{'max':>8}{'ratio':>8}"
    )
    for name, rows in seconds.items():
        line = f"{name:18}"
        for column, values in enumerate(zip(*rows, strict=True)):
            middle = statistics.median(values)
            width = 12 if column == 0 else 14
            line += f"{middle:{width}.3f}{min(values):8.3f}{max(values):8.3f}{middle / base[column]:8.2f}"
        print(line)


if __name__ == "__main__":
    main()
