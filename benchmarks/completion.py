"""What TAB costs: the whole answer to a shell, with 10,000 adapters in the catalog.

    python benchmarks/completion.py [--runs 15] [--adapters 10000]

Whole processes as a shell starts them, in turn so that a noisy moment hits all; wall time, and user + system time by
the kernel's account. The bound is 0.25 s on a quiet machine. `python -c pass` is what the interpreter alone costs.
"""

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
SPACES = 50
LINES = {
    "adapters sh|": "a verb",
    "adapters show |": "namespaces",
    "adapters show team-07/|": "names of a namespace",
    "adapters show big/|": "all names, in one namespace",
    "adapters show team-07/adapter-00007@|": "aliases and versions",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--adapters", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="completion-") as home:
        fill(Path(home), given.adapters)
        rows = {"python -c pass": ([BIN / "python", "-c", "pass"], {})}
        for line in LINES:
            asked = {"_ADAPTERS_COMPLETE": "bash_complete", "_ADAPTERS_LINE": line.rstrip("|")}
            rows[line] = ([BIN / "adapters"], asked)
        seconds = {name: [] for name in rows}
        words = {}
        for turn in range(given.runs + 2):
            for name, (command, asked) in rows.items():
                cost, out = run(command, {**os.environ, "ADAPTERS_HOME": home, **asked})
                words[name] = out.count("\n") - 1
                if turn >= 2:  # the first two fill the page cache
                    seconds[name].append(cost)
    report(seconds, words, given)


def fill(home, count):
    """A registry whose rows are there, without files; as many again in one namespace."""
    subprocess.run([BIN / "adapters", "init", "--home", home], check=True, capture_output=True)
    connection = sqlite3.connect(home / "catalog.db")
    spaces = [f"team-{n % SPACES:02d}" if n < count else "big" for n in range(2 * count)]
    adapters = [(n + 1, space, f"adapter-{n:05d}", 3) for n, space in enumerate(spaces)]
    connection.executemany("INSERT INTO adapters (id, namespace, name, last_number) VALUES (?, ?, ?, ?)", adapters)
    versions = [(a[0], n, f"sha256:{3 * a[0] + n:064x}", n == 3) for a in adapters for n in (1, 2, 3)]
    connection.executemany(
        "INSERT INTO versions (adapter_id, number, digest, newest, peft_type, modules, size) "
        "VALUES (?, ?, ?, ?, 'LORA', 1, 1)",
        versions,
    )
    connection.execute(
        "INSERT INTO aliases (adapter_id, name, version_id, moved_at) "
        "SELECT adapter_id, 'prod', id, '2026-01-01 00:00:00' FROM versions WHERE number = 2"
    )
    connection.commit()
    connection.close()


def run(command, environment):
    """((user + system, wall) seconds, what it printed) of one process."""
    began = time.perf_counter()
    before = os.times()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return (cpu, time.perf_counter() - began), done.stdout


def report(seconds, words, given):
    print(
        f"{2 * given.adapters} adapters, {given.runs} runs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':40}{'words':>7}{'cpu median':>12}{'min':>8}{'max':>8}{'wall median':>14}{'min':>8}{'max':>8}")
    for name, rows in seconds.items():
        line = f"{name:40}{max(words[name], 0):7}"
        for column, values in enumerate(zip(*rows, strict=True)):
            width = 12 if column == 0 else 14
            line += f"{statistics.median(values):{width}.3f}{min(values):8.3f}{max(values):8.3f}"
        print(line)


if __name__ == "__main__":
    main()
