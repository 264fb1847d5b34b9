"""Two adapters trained on one real base, through the whole registry, and what their merge still knows.

    make demo

Every line that starts with ``$`` is a real command in a registry that is thrown away at the end.
Exits 1 if the merged adapter keeps less than 80 % of either parent's gain over the base on held-out sentences, or if
the model it is materialised into, loaded by plain transformers, scores otherwise than the adapter on its base.
"""

import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from encoder import BASE_NAME, base_folder
from evaluate import evaluate
from safetensors.numpy import load_file, save_file
from scoring import gain_kept
from sentences import TASKS

ADAPTERS = Path(__file__).parent / "adapters"
NAMES = {task: f"demo/{task}" for task in TASKS}
MERGED = "demo/act-progress"
MIN_GAIN_KEPT = 0.8
# The sums are added in another order: a sentence that lies on a border may cross it (0.004 each). Here none does.
MAX_DRIFT = 0.012
# The caller's own registry and settings must not leak into the demo.
FOREIGN_SETTINGS = ("ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE", "ADAPTERS_FORMAT")

Scores = dict[str, float]


@dataclass(frozen=True)
class Registry:
    """The ``adapters`` command on one throw-away home."""

    home: Path

    def __call__(self, *arguments: str | Path, expect: int = 0) -> None:
        """Show the command and what it prints; any other exit code than the expected one ends the demo."""
        words = [str(argument) for argument in arguments]
        print(f"\n$ adapters {shlex.join(words)}", flush=True)
        command = Path(sys.executable).with_name("adapters")
        unset = [option for name in FOREIGN_SETTINGS for option in ("-u", name)]
        code = subprocess.run(
            ["/usr/bin/env", *unset, f"ADAPTERS_HOME={self.home}", command, *words], check=False
        ).returncode
        if code != expect:
            sys.exit(f"adapters {words[0]} ended with exit code {code}, expected {expect}")


def main() -> None:
    # torch's and transformers' notes to developers would stand between the commands
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="adapters-demo-") as folder:
        scores = tell_the_story(Registry(Path(folder) / "home"), Path(folder))
    print(f"\n{table(scores)}")
    if any(abs(scores["standalone"][task] - scores["merged"][task]) > MAX_DRIFT for task in TASKS):
        sys.exit(f"the materialised model scores {scores['standalone']}, the adapter on its base {scores['merged']}")
    kept = gains_kept(scores)
    if min(kept.values()) < MIN_GAIN_KEPT:
        sys.exit(f"the merge keeps less than {MIN_GAIN_KEPT:.0%} of a parent's gain: {kept}")


def tell_the_story(adapters: Registry, scratch: Path) -> dict[str, Scores]:
    """Register the base, push, refuse, merge, name, list, pull, materialise; held-out accuracy by model and task."""
    base = base_folder()
    print("Measuring the base and both adapters on held-out sentences …", flush=True)
    scores = {"base": evaluate(base)} | {task: evaluate(base, ADAPTERS / task) for task in TASKS}

    adapters("base", "add", base, "--name", BASE_NAME)
    for task in TASKS:
        accuracy = f"accuracy={scores[task][task]:.4f}"
        adapters("push", ADAPTERS / task, NAMES[task], "--tag", f"task={task}", "--metric", accuracy, "--alias", "prod")

    print("\nA copy of an adapter with a NaN and without one of its B matrices is refused, with the reasons:")
    adapters("push", broken_copy(ADAPTERS / "act", scratch / "broken"), "demo/broken", expect=1)

    parents = [f"{name}@prod" for name in NAMES.values()]
    adapters("merge", *parents, "--weights", "1,1", "--combination", "svd", "--into", MERGED)
    adapters("alias", "set", f"{MERGED}@1", "prod")
    adapters("list")
    adapters("lineage", f"{MERGED}@prod")
    adapters("show", f"{MERGED}@prod")
    adapters("pull", f"{MERGED}@prod", "--to", scratch / "merged")

    print("\nMeasuring the pulled merge …", flush=True)
    scores |= {"merged": evaluate(base, scratch / "merged")}

    print("\nThe same merge written into the base's weights: a folder that needs neither adapter nor registry:")
    adapters("materialize", f"{MERGED}@prod", "--base", BASE_NAME, "--as", "merged", "--to", scratch / "standalone")
    adapters("artifacts", "verify", scratch / "standalone")
    print("\nMeasuring it, loaded by plain transformers …", flush=True)
    return scores | {"standalone": evaluate(scratch / "standalone")}


def broken_copy(adapter: Path, to: Path) -> Path:
    """The adapter with the first tensor's first value made NaN and the last tensor, a B matrix, left out."""
    shutil.copytree(adapter, to)
    tensors = load_file(to / "adapter_model.safetensors")
    first, *_, last = sorted(tensors)
    tensors[first].flat[0] = np.nan
    del tensors[last]
    save_file(tensors, to / "adapter_model.safetensors", metadata={"format": "pt"})
    return to


def gains_kept(scores: dict[str, Scores]) -> dict[str, float]:
    return {task: gain_kept(scores["base"][task], scores[task][task], scores["merged"][task]) for task in TASKS}


def table(scores: dict[str, Scores]) -> str:
    """Accuracy by model (rows) and task (columns), and the share of each parent's gain that the merge kept."""
    rows = [f"{'held-out accuracy':18}" + "".join(f"{task:>10}" for task in TASKS)]
    rows += [f"{model:18}" + "".join(f"{by[task]:>10.3f}" for task in TASKS) for model, by in scores.items()]
    rows += [f"{'gain kept':18}" + "".join(f"{kept:>10.0%}" for kept in gains_kept(scores).values())]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
