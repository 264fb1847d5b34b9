"""Three adapters of one base in one batch on a live model, and one of them replaced while it serves.

    python examples/serve.py

A throw-away registry holds the two adapters of this folder and their merge. The model's rows each go through the
adapter they name; then the alias that one row follows moves to another version, and the next batch uses that.
Exits 1 if any other row changes.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from encoder import BASE_NAME, Encoder, base_folder, load_encoder
from scoring import Array, class_means
from sentences import sentences
from transformers.utils import logging as transformers_logging

from engine.model import Runtime
from registry import Registry

ADAPTERS = Path(__file__).parent / "adapters"
# The caller's own registry must not leak into the example.
FOREIGN_SETTINGS = ("ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_CONTEXT")
ROWS = ("__base__", "demo/act@prod", "demo/progress", "demo/both")
SENTENCE = "Visitors pay before they see the server room."
TASK = "act"  # does the sentence ask, tell or request something?


@dataclass(frozen=True)
class Answer:
    """The class of one row and its lead over the next one, in cosine."""

    name: str
    lead: float


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    for name in FOREIGN_SETTINGS:
        os.environ.pop(name, None)  # noqa: TID251 - a program of its own: nobody else reads it here
    with tempfile.TemporaryDirectory(prefix="adapters-serve-") as home:
        registry = filled(Registry.open(home=home))
        encoder = load_encoder(base_folder())
        runtime = Runtime(encoder.model, slots=3)
        for row in ROWS[1:]:
            loaded = registry.load_into(runtime, row)
            print(f"loaded {loaded.name} = {loaded.ref}")
        before = serve(runtime, encoder)

        print("\nThe alias moves to the merge; the name is swapped while the model stays as it is.")
        registry.set_alias("demo/act@2", "prod")
        loaded = registry.load_into(runtime, "demo/act@prod")
        print(f"loaded {loaded.name} = {loaded.ref}")
        after = serve(runtime, encoder)

    changed = [row for row in ROWS if before[row] != after[row]]
    print(f"\nchanged: {', '.join(changed)}")
    if changed != ["demo/act@prod"]:
        raise SystemExit("expected only the swapped name to change")


def filled(registry: Registry) -> Registry:
    """The registry with act (prod), progress, their merge, and the merge as act's second version."""
    registry.add_base(base_folder(), names=[BASE_NAME])
    registry.push(ADAPTERS / "act", "demo/act", aliases=["prod"])
    registry.push(ADAPTERS / "progress", "demo/progress")
    registry.merge(["demo/act", "demo/progress"], weights=[1, 1], combination="svd", rank=8, into="demo/both")
    registry.push(registry.pull("demo/both"), "demo/act")
    return registry


def serve(runtime: Runtime, encoder: Encoder) -> dict[str, Answer]:
    """Put the same sentence into every row of one batch, each row through its own adapter; print the answers."""
    with torch.inference_mode():
        means = {row: _means(runtime, encoder, row) for row in ROWS}
        with runtime.batch(ROWS):
            rows = encoder([SENTENCE] * len(ROWS)).double().numpy()
    answers = {row: _answer(means[row], rows[place]) for place, row in enumerate(ROWS)}
    print(f"\n{SENTENCE!r}:")
    for row, answer in answers.items():
        print(f"  {row:15} {answer.name:10} by {answer.lead:.4f}")
    return answers


def _means(runtime: Runtime, encoder: Encoder, row: str) -> Mapping[str, Array]:
    known = sentences(TASK, "train")[::6]  # one of each template
    with runtime.batch([row] * len(known)):
        embedded = encoder([sentence.text for sentence in known]).double().numpy()
    return class_means(embedded, [sentence.label for sentence in known])


def _answer(means: Mapping[str, Array], embedding: Array) -> Answer:
    scores = sorted(((float(embedding @ mean), name) for name, mean in means.items()), reverse=True)
    (best, name), (second, _) = scores[:2]
    return Answer(name, best - second)


if __name__ == "__main__":
    main()
