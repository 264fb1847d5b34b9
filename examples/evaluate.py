"""Held-out accuracy of the base, with or without an adapter, on both tasks.

    python examples/evaluate.py [ADAPTER_FOLDER]

PEFT loads the adapter, so a score is also an independent reader's word that the files are whole.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from encoder import Encoder, base_folder, load_encoder
from scoring import Array, accuracy, class_means
from sentences import TASKS, Sentence, sentences
from transformers.utils import logging

BATCH = 64


def evaluate(base: Path, adapter: Path | None = None) -> dict[str, float]:
    """Accuracy per task; the class means come from the training sentences, seen through the same encoder."""
    logging.disable_progress_bar()
    encoder = load_encoder(base)
    if adapter is not None:
        encoder = Encoder(_with_adapter(encoder.model, adapter), encoder.tokenizer)
    return {task: _score(encoder, task) for task in TASKS}


def _with_adapter(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The model with the adapter; a key that is missing or left over is an error, which PEFT only warns of."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, folder)
    result = wrapped.load_adapter(folder, adapter_name="default")
    if result.missing_keys or result.unexpected_keys:
        raise ValueError(f"{folder}: missing {result.missing_keys}, unexpected {result.unexpected_keys}")
    return wrapped.eval()


def _score(encoder: Encoder, task: str) -> float:
    known, held_out = sentences(task, "train"), sentences(task, "held_out")
    means = class_means(_embed(encoder, known), [sentence.label for sentence in known])
    return accuracy(means, _embed(encoder, held_out), [sentence.label for sentence in held_out])


def _embed(encoder: Encoder, batch: Sequence[Sentence]) -> Array:
    texts = [sentence.text for sentence in batch]
    with torch.inference_mode():
        parts = [encoder(texts[start : start + BATCH]).double().numpy() for start in range(0, len(texts), BATCH)]
    return np.concatenate(parts)


if __name__ == "__main__":
    for name, score in evaluate(base_folder(), Path(sys.argv[1]) if len(sys.argv) > 1 else None).items():
        print(f"{name:10} {score:.3f}")
