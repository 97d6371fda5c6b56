"""Classification metrics: from an integer confusion matrix, or from probabilities.

Every function of a confusion matrix takes `[..., K, K]` (rows truth, columns prediction) and gives
float64; leading axes are those of data sets or bootstrap resamples. What is not defined is NaN and
left out of means over classes. Of a class K it looks at "K or not K" (one against the rest): TP,
FP, FN and TN. Recall and the share of right answers are those of `wbc_jax.metrics.confusion`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from wbc_jax.labels import UNKNOWN_LABEL
from wbc_jax.metrics.confusion import _nanmean, _parts, _ratio, dice, recall

# Probabilities that a model gives in half precision may leave [0, 1] by this much.
_SLACK = 1e-2


@functools.partial(jax.jit, static_argnames="num_classes")
def label_confusions(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Counts cells by true and predicted class, under jit and for each leading index.

    Args:
        labels: integer `[..., N]`; any value that is no class (`vocabulary.UNKNOWN_LABEL`) is left
            out.
        predictions: integer `[..., N]`, classes below `num_classes`.
        num_classes: K.

    Returns:
        int32 `[..., K, K]`, rows truth, columns prediction.
    """
    classes = jnp.arange(num_classes)
    rows = (labels[..., None] == classes).astype(jnp.int32)
    columns = (predictions[..., None] == classes).astype(jnp.int32)
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
        ValueError: the shapes differ, or a class is not below `num_classes`.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"labels are {labels.shape} and predictions {predictions.shape}; both must be [N]."
        )
    known = labels != UNKNOWN_LABEL
    labels, predictions = labels[known], predictions[known]
    for name, array in (("labels", labels), ("predictions", predictions)):
        _check_classes(name, array, num_classes)
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision(confusion) -> np.ndarray:
    """TP / (TP + FP) of each class, float64 `[..., K]`; NaN for a class never predicted."""
    hits, _, predicted = _parts(confusion)
    return _ratio(hits, predicted)


def specificity(confusion) -> np.ndarray:
    """TN / (TN + FP) of each class, float64 `[..., K]`; NaN where every cell is of the class."""
    hits, truth, predicted = _parts(confusion)
    others = truth.sum(-1, keepdims=True) - truth
    return _ratio(others - (predicted - hits), others)


def f1(confusion) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, float64 `[..., K]`; NaN for one absent in both.

    The harmonic mean of precision and recall, and the same number as Dice.
    """
    return dice(confusion)


def one_vs_rest_accuracy(confusion) -> np.ndarray:
    """(TP + TN) / all of each class, float64 `[..., K]`; NaN for a class absent in both.

    A class that neither is there nor was predicted would be 100 % right and raise the mean.
    """
    hits, truth, predicted = _parts(confusion)
    total = truth.sum(-1, keepdims=True)
    right = total - (truth - hits) - (predicted - hits)
    return np.where(truth + predicted > 0, _ratio(right, total), np.nan)


def balanced_accuracy(confusion) -> np.ndarray:
    """(sensitivity + specificity) / 2 of each class, float64 `[..., K]`: paper B, equation 6.

    NaN where either is. scikit-learn's `balanced_accuracy_score` is another thing: `macro_recall`.
    """
    return (recall(confusion) + specificity(confusion)) / 2


def macro_precision(confusion) -> np.ndarray:
    """Mean precision over the classes that were predicted, float64 `[...]`."""
    return _nanmean(precision(confusion))


def macro_recall(confusion) -> np.ndarray:
    """Mean recall over the classes present in the truth, float64 `[...]`."""
    return _nanmean(recall(confusion))


def macro_f1(confusion) -> np.ndarray:
    """Mean F1 over the classes present in truth or prediction, float64 `[...]`."""
    return _nanmean(f1(confusion))


def mean_one_vs_rest_accuracy(confusion) -> np.ndarray:
    """Mean of `one_vs_rest_accuracy` over classes present in truth or prediction, `[...]`.

    With K classes it is 1 − 2 (1 − plain accuracy) / K: five classes turn 93 % right into 97 %.
    """
    return _nanmean(one_vs_rest_accuracy(confusion))


def mean_balanced_accuracy(confusion) -> np.ndarray:
    """Mean of `balanced_accuracy` over the classes where it is defined, float64 `[...]`."""
    return _nanmean(balanced_accuracy(confusion))


def pooled_precision(confusion) -> np.ndarray:
    """Σ TP / Σ (TP + FP) over classes, float64 `[...]`.

    Where each cell has one answer, this, `pooled_recall`, `pooled_f1` and plain accuracy are one
    number.
    """
    hits, _, predicted = _parts(confusion)
    return _ratio(hits.sum(-1), predicted.sum(-1))


def pooled_recall(confusion) -> np.ndarray:
    """Σ TP / Σ (TP + FN) over classes, float64 `[...]`."""
    hits, truth, _ = _parts(confusion)
    return _ratio(hits.sum(-1), truth.sum(-1))


def pooled_specificity(confusion) -> np.ndarray:
    """Σ TN / Σ (TN + FP) over classes, float64 `[...]`."""
    hits, truth, predicted = _parts(confusion)
    others = truth.sum(-1, keepdims=True) - truth
    return _ratio((others - (predicted - hits)).sum(-1), others.sum(-1))


def pooled_f1(confusion) -> np.ndarray:
    """Σ 2 TP / Σ (2 TP + FP + FN) over classes, float64 `[...]`."""
    hits, truth, predicted = _parts(confusion)
    return _ratio(2 * hits.sum(-1), (truth + predicted).sum(-1))


def auroc(labels, probabilities) -> np.ndarray:
    """Area under the ROC curve of each class against the rest.

    It is the chance that a cell of the class gets a higher probability of it than one of another
    class, a tie counting half (the Mann–Whitney U of mid-ranks).

    Args:
        labels: integer `[N]`; `vocabulary.UNKNOWN_LABEL` is left out.
        probabilities: float `[N, K]`; any score that grows with the probability will do.

    Returns:
        float64 `[K]`; NaN for a class that no cell or every cell has.

    Raises:
        ValueError: the shapes do not fit, a label is not below K, or a score is NaN.
    """
    labels, scores = _labelled(labels, probabilities)
    ranks = scipy.stats.rankdata(scores, axis=0) if len(scores) else scores
    of_class = labels[:, None] == np.arange(scores.shape[1])
    positive = of_class.sum(0).astype(np.float64)
    wins = (ranks * of_class).sum(0) - positive * (positive + 1) / 2
    return _ratio(wins, positive * (len(labels) - positive))


def macro_auroc(labels, probabilities) -> float:
    """Mean of `auroc` over the classes where it is defined; NaN where there is none."""
    return float(_nanmean(auroc(labels, probabilities)))


def expected_calibration_error(labels, probabilities, bins: int = 15) -> float:
    """How far stated confidence is from the share of right answers.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3: cells are put into
    `bins` equal bins ((m − 1) / bins, m / bins] by the probability of their most probable class;
    the error is Σ over bins of (cells in it / N) · |share right − mean confidence|.

    Args:
        labels: integer `[N]`; `vocabulary.UNKNOWN_LABEL` is left out.
        probabilities: float `[N, K]`.
        bins: how many.

    Returns:
        A number in [0, 1]; NaN without cells.

    Raises:
        ValueError: the shapes do not fit, a label is not below K, a number is no probability, or
            `bins` is not positive.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be 1 or more.")
    labels, probabilities = _labelled(labels, probabilities)
    _check_probabilities(probabilities)
    if not len(labels):
        return float("nan")
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def brier_score(labels, probabilities) -> float:
    """Mean over cells of Σ over classes of (probability − truth)²: 0 perfect, 2 worst.

    Brier 1950's definition for several classes. Arguments and errors as in
    `expected_calibration_error`; NaN without cells.
    """
    labels, probabilities = _labelled(labels, probabilities)
    _check_probabilities(probabilities)
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    return float(_nanmean(((probabilities - truth) ** 2).sum(1)))


def _labelled(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(
            f"labels are {labels.shape} and probabilities {probabilities.shape}; they must be [N] "
            "and [N, K]."
        )
    known = labels != UNKNOWN_LABEL
    labels, probabilities = labels[known], probabilities[known]
    _check_classes("labels", labels, probabilities.shape[1])
    if np.isnan(probabilities).any():
        raise ValueError(
            f"probabilities hold NaN in {int(np.isnan(probabilities).any(1).sum())} of "
            f"{len(labels)} rows; leave those cells out or look for where the model went wrong."
        )
    return labels, probabilities


def _check_classes(name: str, array: np.ndarray, num_classes: int) -> None:
    if array.size and not 0 <= array.min() <= array.max() < num_classes:
        raise ValueError(
            f"{name} hold classes {array.min()} to {array.max()}; they must be 0 to "
            f"{num_classes - 1}."
        )


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
