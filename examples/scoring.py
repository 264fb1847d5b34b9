"""Nearest-class-mean accuracy: the adapter alone carries the skill, there is no classifier to train."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def class_means(embeddings: Array, labels: Sequence[str]) -> dict[str, Array]:
    """The unit-length mean embedding of each class. ``embeddings`` is (sentences, width)."""
    rows = np.asarray(labels)
    means = {label: embeddings[rows == label].mean(axis=0) for label in sorted(set(labels))}
    return {label: mean / np.linalg.norm(mean) for label, mean in means.items()}


def accuracy(means: dict[str, Array], embeddings: Array, labels: Sequence[str]) -> float:
    """The share of rows whose nearest class mean, by cosine, is their own; ties go to the first name."""
    names = list(means)
    nearest = (embeddings @ np.stack(list(means.values())).T).argmax(axis=1)
    return float(np.mean([names[found] == label for found, label in zip(nearest, labels, strict=True)]))


def gain_kept(base: float, parent: float, merged: float) -> float:
    """The share of the parent's gain over the base that the merged adapter still has."""
    return (merged - base) / (parent - base)
