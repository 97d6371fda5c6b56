"""What the scores of both tasks share: groups of images, and intervals by resampling images."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

ALL = "all"
"""Name of the result over all data sets together."""


def process_share() -> tuple[int, int]:
    """Returns which share of a split this process scores, and in how many it is scored."""
    return jax.process_index(), jax.process_count()


def by_dataset(
    datasets: Sequence[str], score: Callable[[np.ndarray], dict[str, Any]]
) -> dict[str, Any]:
    """Returns `score` of each data set's images, and over `all` where there are several.

    Args:
        datasets: name of each image's data set.
        score: of the images chosen by a bool `[N]`.
    """
    names = np.asarray(datasets)
    found = {name: score(names == name) for name in collections.Counter(datasets)}
    if len(found) > 1:
        found[ALL] = score(np.ones(len(names), bool))
    return found


def mean_over(datasets: Sequence[str], score: Callable[[np.ndarray], float]) -> float:
    """Returns the mean over data sets of `score` of each one's images; NaN without images."""
    names = np.asarray(datasets)
    scores = [score(names == name) for name in sorted(set(datasets))]
    return float(np.mean(scores)) if scores else float("nan")


def resamples(images: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Returns how often each image is drawn in each bootstrap resample, int `[number, images]`."""
    return rng.multinomial(images, np.full(images, 1 / images), number)


def interval(values: np.ndarray) -> list[float]:
    """Returns the 2.5th and 97.5th percentile of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return [float("nan"), float("nan")]
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]
