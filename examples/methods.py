"""The demo's two adapters merged by every method: what its report measured beside what the merge still knows.

    python examples/methods.py

Weights 1,1, every method's own defaults, seed 0. Prints a Markdown table; README.md says what its columns mean.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from encoder import base_folder
from evaluate import evaluate
from scoring import gain_kept
from sentences import TASKS

from engine.merge import METHODS, MergeReport, Source, merge

ADAPTERS = Path(__file__).parent / "adapters"
HEADER = (
    "method",
    "rank",
    *(f"{task}'s gain kept" for task in TASKS),
    "energy kept",
    *(f"cosine with {task}" for task in TASKS),
    "norm inflation",
    "sign conflict",
)

Scores = dict[str, float]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    base = base_folder()
    before = evaluate(base)
    alone = {task: evaluate(base, ADAPTERS / task)[task] for task in TASKS}
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for method, report, scores in merges(base):
        kept = [f"{gain_kept(before[task], alone[task], scores[task]):.0%}" for task in TASKS]
        print(f"| {' | '.join(row(method, report, kept))} |", flush=True)


def merges(base: Path) -> Iterator[tuple[str, MergeReport, Scores]]:
    """Every method that takes two adapters, its report, and the merge's held-out accuracy by task."""
    sources = [Source(ADAPTERS / task, 1.0) for task in TASKS]
    for name, method in METHODS.items():
        if method.fewest <= len(sources) <= (method.most or len(sources)):
            with tempfile.TemporaryDirectory(prefix="adapters-methods-") as folder:
                report = merge(sources, method=name, out=Path(folder) / "merged")
                yield name, report, evaluate(base, Path(folder) / "merged")


def row(method: str, report: MergeReport, kept: list[str]) -> tuple[str, ...]:
    """One line of the table."""
    (pair,) = report.pairs
    cosines = ["-" if parent.cosine is None else f"{parent.cosine:.3f}" for parent in report.parents]
    return (
        f"`{method}`",
        str(report.rank),
        *kept,
        f"{report.energy_kept:.1%}",
        *cosines,
        "-" if report.norm_inflation is None else f"{report.norm_inflation:.2f}",
        "-" if pair.sign_conflict is None else f"{pair.sign_conflict:.1%}",
    )


if __name__ == "__main__":
    main()
