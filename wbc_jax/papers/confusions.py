"""Paper B's classification tables, recomputed from the counts behind them.

Table 4 follows from the confusion matrix printed in Figure 7. The matrix behind Table 5 is a
picture, but the counts of each type against the rest follow from the recalls and precisions in
Table 5 and the numbers of images in Table 3.
"""

import dataclasses

import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import printed

OVERALL = "overall"
COLUMNS = ("precision", "recall", "specificity", "F1", "accuracy")
READINGS = {
    "plain": "share of right answers",
    "one_vs_rest": "a type against the rest, mean",
    "balanced": "equation 6, mean",
    "macro_recall": "mean recall",
}
"""The numbers that the paper's word "accuracy" could mean, in our words."""


def figure_7() -> np.ndarray:
    """Returns the confusion matrix that Figure 7 prints, int64 `[5, 5]`, rows truth."""
    cells = printed.load("b", "figure_7")
    types = CELL_TYPES
    return np.asarray([[int(cells[t, p].value) for p in types] for t in types], np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Counts of each cell type against the rest, if the whole confusion matrix is unknown.

    Attributes:
        hits, false_alarms, support: int64 `[..., 5]`: cells of a type predicted as such, cells of
            other types predicted as this one, and all cells of the type; leading axes are
            resamples.
    """

    hits: np.ndarray
    false_alarms: np.ndarray
    support: np.ndarray

    def against_rest(self) -> np.ndarray:
        """Returns the 2 × 2 matrix of each type against the rest, int64 `[..., 5, 2, 2]`."""
        misses = self.support - self.hits
        others = self.support.sum(-1, keepdims=True) - self.support
        rest = np.stack([others - self.false_alarms, self.false_alarms], -1)
        return np.stack([rest, np.stack([misses, self.hits], -1)], -2)


def of_matrix(confusion: np.ndarray) -> Counts:
    """Returns the counts of confusion matrices, int `[..., 5, 5]`."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return Counts(hits, confusion.sum(-2) - hits, confusion.sum(-1))


def behind_table_5() -> Counts:
    """Returns the counts from which Table 5 follows, given the numbers of images in Table 3.

    Hits are recall times the number of images; false alarms are hits over precision minus hits.
    Both come out within 0.01 of whole numbers.
    """
    scores, images = printed.load("b", "table_5"), printed.load("b", "table_3")
    types = CELL_TYPES
    support = np.asarray([images[t, "independent"].number for t in types])
    hits = np.rint(support * [scores[t, "recall"].number for t in types])
    false_alarms = np.rint(hits / [scores[t, "precision"].number for t in types]) - hits
    return Counts(*(a.astype(np.int64) for a in (hits, false_alarms, support)))


def table(counts: Counts) -> dict[printed.Key, np.ndarray]:
    """Returns the cells of Table 4 or 5 except the overall accuracy, by row and column.

    The overall F1 is defined as in the paper: the harmonic mean of overall precision and recall.
    A number that is not defined for a type is NaN and left out of the overall mean.

    Returns:
        float64 `[...]` each.
    """
    columns = _columns(counts)
    found = {
        (name, column): values[..., k]
        for k, name in enumerate(CELL_TYPES)
        for column, values in columns.items()
    }
    for column in ("precision", "recall", "specificity"):
        found[OVERALL, column] = _mean(columns[column])
    found[OVERALL, "F1"] = harmonic(found[OVERALL, "precision"], found[OVERALL, "recall"])
    return found


def readings(counts: Counts) -> dict[str, np.ndarray]:
    """Returns the possible overall accuracies by the keys of `READINGS`, float64 `[...]` each."""
    columns, pairs = _columns(counts), counts.against_rest()
    return {
        "plain": counts.hits.sum(-1) / counts.support.sum(-1),
        "one_vs_rest": _mean(columns["accuracy"]),
        "balanced": _mean(metrics.balanced_accuracy(pairs)[..., 1]),
        "macro_recall": _mean(columns["recall"]),
    }


def harmonic(first, second):
    """Returns the harmonic mean; 0 if both numbers are 0."""
    total = np.asarray(first + second, np.float64)
    return np.where(total == 0, 0.0, 2 * first * second / np.where(total == 0, 1, total))


def _columns(counts: Counts) -> dict[str, np.ndarray]:
    pairs = counts.against_rest()
    return {
        "precision": metrics.precision(pairs)[..., 1],
        "recall": metrics.recall(pairs)[..., 1],
        "specificity": metrics.specificity(pairs)[..., 1],
        "F1": metrics.f1(pairs)[..., 1],
        "accuracy": metrics.one_vs_rest_accuracy(pairs)[..., 1],
    }


def _mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the types whose value is defined; NaN if none is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)
