"""Classification metrics, from an integer confusion matrix or from probabilities.

Every function of a confusion matrix takes `[..., K, K]` (rows truth, columns prediction) and
returns float64; leading axes are data sets or bootstrap resamples. An undefined score is NaN, and
means over classes leave it out. TP, FP, FN and TN of a class are those of the class against the
rest. Recall and accuracy are in `wbc_jax.metrics.confusion`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from wbc_jax.labels import UNKNOWN_LABEL
from wbc_jax.metrics.checks import check_classes
from wbc_jax.metrics.confusion import dice, marginals, recall
from wbc_jax.metrics.ratios import nan_mean, ratio

# A model's probabilities in half precision may leave [0, 1] by this much.
_SLACK = 1e-2


@functools.partial(jax.jit, static_argnames="num_classes")
def label_confusions(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Counts cells by true and predicted class, under jit and for each leading index.

    Args:
        labels: integer `[..., N]`; values that are not a class (`vocabulary.UNKNOWN_LABEL`) are
            left out.
        predictions: integer `[..., N]`, classes below `num_classes`.
        num_classes: K.

    Returns:
        int32 `[..., K, K]`, rows truth, columns prediction.
    """
    classes = jnp.arange(num_classes, dtype=jnp.int32).reshape((1,) * labels.ndim + (-1,))
    rows = (labels[..., None].astype(jnp.int32) == classes).astype(jnp.int32)
    columns = (predictions[..., None].astype(jnp.int32) == classes).astype(jnp.int32)
    return jnp.einsum("...nt,...np->...tp", rows, columns)


def confusion_from_labels(labels, predictions, num_classes: int) -> np.ndarray:
    """Counts cells by true and predicted class.

    Args:
        labels: integer `[N]`; `vocabulary.UNKNOWN_LABEL` is left out.
        predictions: integer `[N]`.
        num_classes: K.

    Returns:
        int64 `[K, K]`, rows truth, columns prediction.

    Raises:
        ValueError: the shapes differ, or a class is no integer below `num_classes`.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"labels are {labels.shape} and predictions {predictions.shape}; both must be [N]."
        )
    known = check_classes("labels", labels, num_classes, UNKNOWN_LABEL) != UNKNOWN_LABEL
    labels, predictions = labels[known], predictions[known]
    check_classes("predictions", predictions, num_classes)
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision(confusion) -> np.ndarray:
    """Returns TP / (TP + FP) of each class, float64 `[..., K]`; NaN for a class never predicted."""
    hits, _, predicted = marginals(confusion)
    return ratio(hits, predicted)


def specificity(confusion) -> np.ndarray:
    """Returns TN / (TN + FP) of each class, `[..., K]`; NaN where every cell is of the class."""
    hits, truth, predicted = marginals(confusion)
    others = truth.sum(-1, keepdims=True) - truth
    return ratio(others - (predicted - hits), others)


def f1(confusion) -> np.ndarray:
    """Returns 2 TP / (2 TP + FP + FN) of each class, `[..., K]`; NaN for one absent in both.

    It is the harmonic mean of precision and recall, and the same number as Dice.
    """
    return dice(confusion)


def one_vs_rest_accuracy(confusion) -> np.ndarray:
    """Returns (TP + TN) / all of each class, float64 `[..., K]`; NaN for a class absent in both.

    A class that is absent in both would count as 100 % accurate and raise the mean.
    """
    hits, truth, predicted = marginals(confusion)
    total = truth.sum(-1, keepdims=True)
    right = total - (truth - hits) - (predicted - hits)
    return np.where(truth + predicted > 0, ratio(right, total), np.nan)


def balanced_accuracy(confusion) -> np.ndarray:
    """Returns (sensitivity + specificity) / 2 of each class, `[..., K]`: paper B, equation 6.

    NaN where either is. scikit-learn's `balanced_accuracy_score` is `macro_recall` instead.
    """
    return (recall(confusion) + specificity(confusion)) / 2


def macro_precision(confusion, absent_as_zero: bool = False) -> np.ndarray:
    """Returns the mean precision over classes, float64 `[...]`.

    Args:
        confusion: as in the module's docstring.
        absent_as_zero: a class that is in the truth and never predicted counts as 0 (as in
            scikit-learn). False: it is left out, so that a model that never gives a difficult class
            has a higher mean.
    """
    values = precision(confusion)
    if absent_as_zero:
        values = np.where(np.isnan(values) & (marginals(confusion)[1] > 0), 0, values)
    return nan_mean(values)


def macro_recall(confusion) -> np.ndarray:
    """Returns the mean recall over the classes present in the truth, float64 `[...]`."""
    return nan_mean(recall(confusion))


def macro_f1(confusion) -> np.ndarray:
    """Returns the mean F1 over the classes present in truth or prediction, float64 `[...]`."""
    return nan_mean(f1(confusion))


def mean_one_vs_rest_accuracy(confusion) -> np.ndarray:
    """Returns the mean `one_vs_rest_accuracy` over classes in truth or prediction, `[...]`.

    With K classes it is 1 − 2 (1 − accuracy) / K: five classes turn an accuracy of 93 % into 97 %.
    """
    return nan_mean(one_vs_rest_accuracy(confusion))


def mean_balanced_accuracy(confusion) -> np.ndarray:
    """Returns the mean `balanced_accuracy` over the classes where it is defined, `[...]`."""
    return nan_mean(balanced_accuracy(confusion))


def pooled_precision(confusion) -> np.ndarray:
    """Returns Σ TP / Σ (TP + FP) over classes, float64 `[...]`.

    Where each cell has exactly one predicted class, this, `pooled_recall`, `pooled_f1` and accuracy
    are the same number.
    """
    hits, _, predicted = marginals(confusion)
    return ratio(hits.sum(-1), predicted.sum(-1))


def pooled_recall(confusion) -> np.ndarray:
    """Returns Σ TP / Σ (TP + FN) over classes, float64 `[...]`."""
    hits, truth, _ = marginals(confusion)
    return ratio(hits.sum(-1), truth.sum(-1))


def pooled_specificity(confusion) -> np.ndarray:
    """Returns Σ TN / Σ (TN + FP) over classes, float64 `[...]`."""
    hits, truth, predicted = marginals(confusion)
    others = truth.sum(-1, keepdims=True) - truth
    return ratio((others - (predicted - hits)).sum(-1), others.sum(-1))


def pooled_f1(confusion) -> np.ndarray:
    """Returns Σ 2 TP / Σ (2 TP + FP + FN) over classes, float64 `[...]`."""
    hits, truth, predicted = marginals(confusion)
    return ratio(2 * hits.sum(-1), (truth + predicted).sum(-1))


def auroc(labels, probabilities) -> np.ndarray:
    """Returns the area under the ROC curve of each class against the rest.

    It is the probability that a cell of the class scores higher for that class than a cell of
    another class does; a tie counts half (the Mann–Whitney U of mid-ranks).

    Args:
        labels: integer `[N]`; `vocabulary.UNKNOWN_LABEL` is left out.
        probabilities: float `[N, K]`; any score that grows with the probability will do.

    Returns:
        float64 `[K]`; NaN for a class to which no cell or every cell belongs.

    Raises:
        ValueError: the shapes do not fit, a label is no integer below K, or a score is NaN.
    """
    labels, scores = _labelled(labels, probabilities)
    ranks = scipy.stats.rankdata(scores, axis=0) if len(scores) else scores
    of_class = labels[:, None] == np.arange(scores.shape[1])
    positive = of_class.sum(0).astype(np.float64)
    wins = (ranks * of_class).sum(0) - positive * (positive + 1) / 2
    return ratio(wins, positive * (len(labels) - positive))


def macro_auroc(labels, probabilities) -> float:
    """Returns the mean `auroc` over the classes where it is defined; NaN where there is none."""
    return float(nan_mean(auroc(labels, probabilities)))


def expected_calibration_error(labels, probabilities, bins: int = 15) -> float:
    """Returns the expected calibration error: the gap between confidence and accuracy.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3: cells are sorted into
    `bins` equal bins by the probability of their most probable class; the error is Σ over bins of
    (cells in the bin / N) · |accuracy − mean confidence|.

    Args:
        labels: integer `[N]`; `vocabulary.UNKNOWN_LABEL` is left out.
        probabilities: float `[N, K]`.
        bins: number of bins.

    Returns:
        A number in [0, 1]; NaN without cells.

    Raises:
        ValueError: the shapes do not fit, a label is no integer below K, a number is not a
            probability, or `bins` is not positive.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be 1 or more.")
    labels, probabilities = _labelled(labels, probabilities)
    _check_probabilities(probabilities)
    if not len(labels):
        return float("nan")
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    gaps = np.bincount(confidence_bins(confidence, bins), right - confidence, bins)
    return float(calibration_error(gaps, len(labels)))


def confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Returns the bin, int `[N]` from 0, of each confidence float64 `[N]`.

    Bins are equal: bin m is (m / bins, (m + 1) / bins].
    """
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)


def calibration_error(gaps: np.ndarray, number) -> np.ndarray:
    """Returns the expected calibration error, float64 `[...]`; NaN without predictions.

    Args:
        gaps: float64 `[..., B]`, number of right predictions minus sum of confidences, by bin.
        number: number of predictions `[...]`.
    """
    return ratio(np.abs(gaps).sum(-1), number)


def brier_score(labels, probabilities) -> float:
    """Returns the mean over cells of Σ over classes of (probability − truth)²: 0 best, 2 worst.

    This is Brier's definition for several classes (1950). Arguments and errors as in
    `expected_calibration_error`; NaN without cells.
    """
    labels, probabilities = _labelled(labels, probabilities)
    _check_probabilities(probabilities)
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    return float(nan_mean(((probabilities - truth) ** 2).sum(1)))


def _labelled(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(
            f"labels are {labels.shape} and probabilities {probabilities.shape}; they must be [N] "
            "and [N, K]."
        )
    num_classes = probabilities.shape[1]
    known = check_classes("labels", labels, num_classes, UNKNOWN_LABEL) != UNKNOWN_LABEL
    labels, probabilities = labels[known], probabilities[known]
    if np.isnan(probabilities).any():
        raise ValueError(
            f"probabilities hold NaN in {int(np.isnan(probabilities).any(1).sum())} of "
            f"{len(labels)} rows; leave those cells out, or find out why the model returned NaN."
        )
    return labels, probabilities


def _check_probabilities(probabilities: np.ndarray) -> None:
    if not probabilities.size:
        return
    low, high, total = probabilities.min(), probabilities.max(), probabilities.sum(1)
    if low < -_SLACK or high > 1 + _SLACK or np.abs(total - 1).max() > _SLACK:
        raise ValueError(
            f"probabilities range from {low:.4g} to {high:.4g} with rows that sum to "
            f"{total.min():.4g} to {total.max():.4g}; each must be in [0, 1] and each row sum to "
            "1. Apply softmax to logits first."
        )
