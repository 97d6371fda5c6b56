"""Our numbers with 95 % intervals, from confusion matrices and stored results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.metrics.statistics import RESAMPLES
from wbc_jax.papers import confusions, printed
from wbc_jax.papers.comparison import UNKNOWN, Value


def total_confusion(results: Sequence[Mapping[str, Any] | None]) -> np.ndarray | None:
    """Returns the sum of several results' confusion matrices; None if there is none."""
    matrices = [np.asarray(r["confusion"], np.int64) for r in results if r and r.get("confusion")]
    return np.sum(matrices, axis=0) if matrices else None


def classification_scores(
    confusion: np.ndarray | None, resamples: int = RESAMPLES
) -> dict[printed.Key, Value]:
    """Returns the cells of Table 4 for a confusion matrix, and the readings of overall accuracy.

    Args:
        confusion: int `[5, 5]`, rows truth; None if it is unknown.
        resamples: number behind each 95 % interval. Images are resampled (Efron's percentile
            bootstrap), which is a multinomial draw of the matrix's entries.

    Returns:
        Values by row and column; the readings' columns are the keys of `confusions.READINGS` in
        the row `overall`.
    """
    if confusion is None or not confusion.sum():
        return {}
    total = int(confusion.sum())
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(total, confusion.ravel() / total, resamples)
    drawn = drawn.reshape(resamples, *confusion.shape)
    point, spread = (_all_scores(m) for m in (confusion, drawn))
    return {key: _value(float(point[key]), spread[key]) for key in point}


def _all_scores(confusion: np.ndarray) -> dict[printed.Key, np.ndarray]:
    counts = confusions.of_matrix(confusion)
    found = confusions.table(counts)
    return found | {(confusions.OVERALL, k): v for k, v in confusions.readings(counts).items()}


def _value(point: float, spread: np.ndarray) -> Value:
    if math.isnan(point):
        return UNKNOWN
    low, high = metrics.interval(spread)
    return Value(point, float(low), float(high))


def median(values: Sequence[float]) -> Value:
    """Returns the median of the finite values with its bootstrap interval."""
    finite = np.asarray([v for v in values if math.isfinite(v)])
    if not len(finite):
        return UNKNOWN
    low, high = metrics.bootstrap_interval(np.median, finite, resamples=RESAMPLES)
    return Value(float(np.median(finite)), float(low), float(high))


def share(hits: Sequence[bool]) -> Value:
    """Returns the share of true entries with its bootstrap interval."""
    found = np.asarray(hits, np.float64)
    if not len(found):
        return UNKNOWN
    rng = np.random.default_rng(0)
    drawn = rng.binomial(len(found), found.mean(), RESAMPLES) / len(found)
    return _value(float(found.mean()), drawn)


def segmentation_score(result: Mapping[str, Any] | None, key: str) -> Value:
    """Returns one number of a result in `report/metrics.json` with its interval.

    Args:
        result: the result of a data set, or of a cell type in it.
        key: `mean_iou`, or `iou.nucleus` for an entry of a group.
    """
    if not result:
        return UNKNOWN
    group, _, name = key.partition(".")
    found = result.get(group)
    if name:
        found = (found or {}).get(name)
    if found is None:
        return UNKNOWN
    low, high = (result.get("intervals") or {}).get(key.replace(".", "_")) or (None, None)
    ends = (math.nan if end is None else float(end) for end in (low, high))
    return Value(float(found), *ends)


def proportion(hits: Sequence[bool]) -> Value:
    """Returns the share of true entries with its Wilson interval."""
    if not len(hits):
        return UNKNOWN
    found = metrics.proportion(int(sum(hits)), len(hits))
    return Value(found["value"], *found["interval"])
