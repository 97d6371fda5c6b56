"""Segmentation: a model and a split → metrics, and one row an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from wbc_jax import metrics, vocabulary
from wbc_jax.data import pipeline
from wbc_jax.evaluate import groups
from wbc_jax.metrics.nc_ratio import NCRatio, from_areas

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 images `[B, S, S, 3]` → uint8 classes `[B, M, M]`, M the examples' mask size."""

CLASSES = len(vocabulary.MASK_CLASSES)
SCORE = "mean_iou"
"""What the best checkpoint is chosen by, on the validation split."""
SCORE_NAME = "mean IoU"
ROW_COLUMNS = (
    "dataset",
    "id",
    "label",
    "global_accuracy",
    "mean_iou",
    "iou_background",
    "iou_cytoplasm",
    "iou_nucleus",
    "dice_cytoplasm",
    "dice_nucleus",
    "truth_nucleus_px",
    "truth_cytoplasm_px",
    "nucleus_px",
    "cytoplasm_px",
    "truth_nc_ratio",
    "nc_ratio",
    "nc_relative_error",
    "flag",
)


def measure(predict: Predict, examples: pipeline.Examples, batch_size: int) -> np.ndarray:
    """Returns int64 `[N, C, C]`, the confusion matrix of each example (rows truth)."""
    counts = np.zeros((len(examples), CLASSES, CLASSES), np.int64)
    for batch in pipeline.eval_batches(examples, batch_size):
        predicted = predict(batch["image"])
        found = np.asarray(metrics.confusion_matrices(batch["mask"], predicted, CLASSES))
        kept = batch["index"] >= 0
        counts[batch["index"][kept]] = found[kept]
    return counts


def training_summary(confusion: np.ndarray) -> dict[str, float]:
    """Returns what the log says of training, from the confusion matrix of the images drawn."""
    return {
        "mean_iou": float(metrics.mean_iou(confusion)),
        "global_accuracy": float(metrics.global_accuracy(confusion)),
    }


def validation(counts: np.ndarray, examples: pipeline.Examples) -> dict[str, float]:
    """Returns what the log says of the validation split, and `score`.

    The score is the mean over data sets of each one's mean IoU: a small set weighs as a large one.
    NaN without images.
    """
    total = counts.sum(0)
    iou = metrics.iou(total)
    score = groups.mean_over(
        examples.datasets, lambda chosen: float(metrics.mean_iou(counts[chosen].sum(0)))
    )
    return {
        "score": score,
        **training_summary(total),
        "iou_cytoplasm": float(iou[vocabulary.CYTOPLASM]),
        "iou_nucleus": float(iou[vocabulary.NUCLEUS]),
    }


def rows(counts: np.ndarray, examples: pipeline.Examples) -> list[dict[str, Any]]:
    """Returns one row an example, with `ROW_COLUMNS` as keys; areas are in pixels of mask size."""
    truth = from_areas(*_areas(counts.sum(2)))
    found = from_areas(*_areas(counts.sum(1)))
    iou, dice = metrics.iou(counts), metrics.dice(counts)
    mean_iou, accuracy = metrics.mean_iou(counts), metrics.global_accuracy(counts)
    errors = _relative_errors(truth, found)
    return [
        {
            "dataset": dataset,
            "id": id_,
            "label": int(label),
            "global_accuracy": float(accuracy[i]),
            "mean_iou": float(mean_iou[i]),
            "iou_background": float(iou[i, vocabulary.BACKGROUND]),
            "iou_cytoplasm": float(iou[i, vocabulary.CYTOPLASM]),
            "iou_nucleus": float(iou[i, vocabulary.NUCLEUS]),
            "dice_cytoplasm": float(dice[i, vocabulary.CYTOPLASM]),
            "dice_nucleus": float(dice[i, vocabulary.NUCLEUS]),
            "truth_nucleus_px": int(truth.nucleus_px[i]),
            "truth_cytoplasm_px": int(truth.cytoplasm_px[i]),
            "nucleus_px": int(found.nucleus_px[i]),
            "cytoplasm_px": int(found.cytoplasm_px[i]),
            "truth_nc_ratio": float(truth.nc_ratio[i]),
            "nc_ratio": float(found.nc_ratio[i]),
            "nc_relative_error": float(errors[i]),
            "flag": str(found.flag[i]),
        }
        for i, (dataset, id_, label) in enumerate(
            zip(examples.datasets, examples.ids, examples.labels)
        )
    ]


def results(
    counts: np.ndarray, examples: pipeline.Examples, bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Returns metrics by data set, each also by cell type, and over `all` images.

    Args:
        counts: int `[N, C, C]`, from `measure`.
        examples: what they are of.
        bootstrap: resamples of images behind each 95 % interval; 0: no intervals.
        seed: of the resampling.
    """
    labels = examples.labels

    def with_types(chosen: np.ndarray) -> dict[str, Any]:
        found = summarize(counts[chosen], bootstrap, seed)
        by_type = {}
        for label in sorted(set(labels[chosen].tolist())):
            name = "unknown" if label < 0 else vocabulary.CELL_TYPES[label]
            by_type[name] = summarize(counts[chosen & (labels == label)], bootstrap, seed)
        return {**found, "by_type": by_type}

    return groups.by_dataset(examples.datasets, with_types)


def summarize(counts: np.ndarray, bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """Returns the metrics of a set of images from their confusion matrices, int `[N, C, C]`.

    Region metrics come from the sum of the matrices. Intervals are the 2.5th and 97.5th
    percentiles over resamples of the images (Efron's percentile bootstrap).
    """
    values = _metrics(counts.sum(0)[None])
    point = {name: float(v[0]) for name, v in values.items()}
    found = {
        "images": len(counts),
        **{name: point[name] for name in _HEADLINES},
        "iou": {c: point[f"iou_{c}"] for c in vocabulary.MASK_CLASSES},
        "dice": {c: point[f"dice_{c}"] for c in vocabulary.MASK_CLASSES},
        "confusion": counts.sum(0).tolist(),
        "nc": _nc_agreement(counts),
    }
    if bootstrap and len(counts) > 1:
        rng = np.random.default_rng(seed)
        drawn = groups.resamples(len(counts), bootstrap, rng)
        summed = np.einsum("rn,nij->rij", drawn.astype(np.float64), counts.astype(np.float64))
        intervals = {name: groups.interval(v) for name, v in _metrics(summed).items()}
        errors = nc_errors(counts)
        medians = [
            np.median(errors[rng.integers(0, len(errors), len(errors))]) if len(errors) else np.nan
            for _ in range(bootstrap)
        ]
        intervals["nc_median_relative_error"] = groups.interval(np.asarray(medians))
        found["intervals"] = intervals
    return found


def nc_errors(counts: np.ndarray) -> np.ndarray:
    """Returns |predicted − true| / true N/C of the images where both are ordinary numbers."""
    truth = from_areas(*_areas(counts.sum(2)))
    found = from_areas(*_areas(counts.sum(1)))
    errors = _relative_errors(truth, found)
    return errors[np.isfinite(errors)]


_HEADLINES = ("global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou")


def _metrics(summed: np.ndarray) -> dict[str, np.ndarray]:
    values = {name: getattr(metrics, name)(summed) for name in _HEADLINES}
    for name in ("iou", "dice"):
        per_class = getattr(metrics, name)(summed)
        for i, c in enumerate(vocabulary.MASK_CLASSES):
            values[f"{name}_{c}"] = per_class[..., i]
    return values


def _areas(by_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return by_class[:, vocabulary.NUCLEUS], by_class[:, vocabulary.CYTOPLASM]


def _relative_errors(truth: NCRatio, found: NCRatio) -> np.ndarray:
    usual = np.isfinite(truth.nc_ratio) & np.isfinite(found.nc_ratio)
    with np.errstate(invalid="ignore"):
        return np.where(usual, np.abs(found.nc_ratio - truth.nc_ratio) / truth.nc_ratio, np.nan)


def _nc_agreement(counts: np.ndarray) -> dict[str, Any]:
    truth = from_areas(*_areas(counts.sum(2)))
    found = from_areas(*_areas(counts.sum(1)))
    usual = np.isfinite(truth.nc_ratio) & np.isfinite(found.nc_ratio)
    x, y = truth.nc_ratio[usual], found.nc_ratio[usual]
    spread = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "images": int(usual.sum()),
        "median_relative_error": float(np.median(nc_errors(counts))) if len(x) else float("nan"),
        "spearman": float(scipy.stats.spearmanr(x, y).statistic) if spread else float("nan"),
        "flagged": int((~usual).sum()),
    }
