"""Scores of classification: metrics of a split, and one row per image."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.evaluate import groups
from wbc_jax.labels import CELL_TYPES
from wbc_jax.metrics import statistics

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 images `[B, S, S, 3]` → float32 probabilities `[B, K]` of the cell types."""

TYPES = CELL_TYPES
CLASSES = len(TYPES)
SCORE = "macro_recall"
"""Metric that selects the best checkpoint, on the validation split."""
SCORE_NAME = "macro recall"
ROW_COLUMNS = (
    "dataset",
    "id",
    "label",
    "predicted",
    "right",
    "probability",
    "label_source",
    *(f"probability_{name}" for name in TYPES),
)


def measure(predict: Predict, examples: pipeline.Examples, batch_size: int) -> np.ndarray:
    """Returns float64 `[N, K]`, the probabilities of each example's cell types.

    Each process scores its share of the examples and receives all: every process must call it.
    """
    found = np.zeros((len(examples), CLASSES))
    for batch in pipeline.eval_batches(examples, batch_size, *groups.process_share()):
        kept = batch["index"] >= 0
        found[batch["index"][kept]] = np.asarray(predict(batch["image"]))[kept]
    return metrics.sum_over_hosts(found)


measure_test = measure
"""The test split needs no other measurement."""


def training_summary(confusion: np.ndarray) -> dict[str, float]:
    """Returns the metrics logged during training, from the confusion matrix of the drawn images."""
    return {
        "accuracy": float(metrics.global_accuracy(confusion)),
        "macro_recall": float(metrics.macro_recall(confusion)),
    }


def validation(probabilities: np.ndarray, examples: pipeline.Examples) -> dict[str, float]:
    """Returns the metrics logged for the validation split, and `score`.

    The score is the mean over data sets of each set's macro recall: small sets and rare types weigh
    as much as large sets and frequent types. NaN without images.
    """
    labels, predicted = examples.labels, probabilities.argmax(1)

    def macro_recall(chosen: np.ndarray) -> float:
        return float(metrics.macro_recall(_confusion(labels[chosen], predicted[chosen])))

    picked = np.take_along_axis(probabilities, labels[:, None], 1)
    return {
        "score": groups.mean_over(examples.datasets, macro_recall),
        **training_summary(_confusion(labels, predicted)),
        "loss": float(-np.log(np.maximum(picked, 1e-12)).mean()) if len(labels) else float("nan"),
    }


def rows(probabilities: np.ndarray, examples: pipeline.Examples) -> list[dict[str, Any]]:
    """Returns one row per example, with `ROW_COLUMNS` as keys."""
    predicted = probabilities.argmax(1)
    return [
        {
            "dataset": source.name,
            "id": source.ids[k],
            "label": int(source.labels[k]),
            "predicted": int(predicted[i]),
            "right": bool(predicted[i] == source.labels[k]),
            "probability": float(probabilities[i].max()),
            "label_source": source.label_sources[k],
            **{f"probability_{name}": float(p) for name, p in zip(TYPES, probabilities[i])},
        }
        for i, (source, k) in enumerate(examples.entries)
    ]


def results(
    probabilities: np.ndarray, examples: pipeline.Examples, bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Returns the metrics of each data set, and of `all` images.

    Args:
        probabilities: `[N, K]`, from `measure`.
        examples: the N examples; each has a type.
        bootstrap: resamples of images behind each 95 % interval; 0: no intervals.
        seed: seed of the resampling.
    """
    return groups.by_dataset(
        examples.datasets,
        lambda chosen: summarize(examples.labels[chosen], probabilities[chosen], bootstrap, seed),
    )


def summarize(
    labels: np.ndarray, probabilities: np.ndarray, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Returns the metrics of a set of images.

    All but AUROC and calibration error come from one confusion matrix. Intervals are the 2.5th and
    97.5th percentiles over resamples of the images (Efron's percentile bootstrap). Means leave out
    types for which a metric is not defined; `macro_precision_absent_as_zero`, which reports show,
    counts the types in the truth that are never predicted (`types_never_predicted`) as 0.

    Args:
        labels: int `[N]`.
        probabilities: `[N, K]`.
        bootstrap: number of resamples; 0: no intervals.
        seed: seed of the resampling.
    """
    predicted = probabilities.argmax(1)
    confusion = _confusion(labels, predicted)
    values = {name: float(v[0]) for name, v in _headlines(confusion[None]).items()}
    auroc = metrics.auroc(labels, probabilities)
    found = {
        "images": len(labels),
        **values,
        "macro_auroc": metrics.macro_auroc(labels, probabilities),
        "expected_calibration_error": metrics.expected_calibration_error(labels, probabilities),
        "types_never_predicted": int(((confusion.sum(1) > 0) & (confusion.sum(0) == 0)).sum()),
        "confusion": confusion.tolist(),
        "by_type": _by_type(confusion, auroc),
    }
    if bootstrap and len(labels) > 1:
        drawn = statistics.draw_images(len(labels), bootstrap, seed)
        pairs = np.eye(CLASSES**2)[labels * CLASSES + predicted]
        summed = statistics.sum_drawn(pairs.reshape(-1, CLASSES, CLASSES), drawn)
        found["intervals"] = {
            n: metrics.interval(v).tolist() for n, v in _headlines(summed).items()
        }
        per_type = {name: metrics.interval(value(summed)).T for name, value in _PER_TYPE.items()}
        for k, name in enumerate(TYPES):
            found["by_type"][name]["intervals"] = {
                metric: ends[k].tolist() for metric, ends in per_type.items()
            }
    return found


_PER_TYPE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "f1": metrics.f1,
    "one_vs_rest_accuracy": metrics.one_vs_rest_accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
}


def _by_type(confusion: np.ndarray, auroc: np.ndarray) -> dict[str, dict[str, Any]]:
    values = {name: value(confusion) for name, value in _PER_TYPE.items()}
    return {
        name: {
            "images": int(confusion[k].sum()),
            **{metric: float(value[k]) for metric, value in values.items()},
            "auroc": float(auroc[k]),
        }
        for k, name in enumerate(TYPES)
    }


def _headlines(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics over all types of each matrix, `[R]` from `[R, K, K]`.

    Paper B in places calls `mean_balanced_accuracy` and `mean_one_vs_rest_accuracy` accuracy; both
    exceed the accuracy.
    """
    return {
        "accuracy": metrics.global_accuracy(confusions),
        "macro_recall": metrics.macro_recall(confusions),
        "macro_precision": metrics.macro_precision(confusions),
        "macro_precision_absent_as_zero": metrics.macro_precision(confusions, absent_as_zero=True),
        "macro_f1": metrics.macro_f1(confusions),
        "mean_one_vs_rest_accuracy": metrics.mean_one_vs_rest_accuracy(confusions),
        "mean_balanced_accuracy": metrics.mean_balanced_accuracy(confusions),
    }


def _confusion(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return metrics.confusion_from_labels(labels, predicted, CLASSES)
