"""Groups of images: by data set, and by process."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wbc_jax.labels import ALL


def process_share() -> tuple[int, int]:
    """Returns the index of the share that this process scores, and the number of shares."""
    return jax.process_index(), jax.process_count()


def by_dataset(
    datasets: Sequence[str], score: Callable[[np.ndarray], dict[str, Any]]
) -> dict[str, Any]:
    """Returns the scores of each data set, and of `all` images where there are several sets.

    Args:
        datasets: name of each image's data set.
        score: returns the scores of the images chosen by a bool `[N]`.
    """
    names = np.asarray(datasets)
    found = {name: score(names == name) for name in collections.Counter(datasets)}
    if len(found) > 1:
        found[ALL] = score(np.ones(len(names), bool))
    return found


def mean_over(datasets: Sequence[str], score: Callable[[np.ndarray], float]) -> float:
    """Returns the mean over data sets of each set's `score`; NaN without images."""
    names = np.asarray(datasets)
    scores = [score(names == name) for name in sorted(set(datasets))]
    return float(np.mean(scores)) if scores else float("nan")
