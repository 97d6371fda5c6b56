"""Segmentation: a model and a split → metrics, and one row an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.evaluate import groups
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, IGNORE, MASK_CLASSES, NUCLEUS
from wbc_jax.metrics.nc_ratio import NCRatio, from_areas

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 images `[B, S, S, 3]` → uint8 classes `[B, M, M]`, M the examples' mask size."""

CLASSES = len(MASK_CLASSES)
SCORE = "mean_iou"
"""What the best checkpoint is chosen by, on the validation split."""
SCORE_NAME = "mean IoU"
CALIBRATION_BINS = 15
"""Of equal width between 0 and 1, as of `metrics.expected_calibration_error`."""
ROW_COLUMNS = (
    "dataset",
    "id",
    "label",
    "global_accuracy",
    "mean_accuracy",
    "mean_iou",
    "weighted_iou",
    "iou_background",
    "iou_cytoplasm",
    "iou_nucleus",
    "dice_cytoplasm",
    "dice_nucleus",
    "bf_score",
    "bf_score_background",
    "bf_score_cytoplasm",
    "bf_score_nucleus",
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
    """Returns int64 `[N, C, C]`, the confusion matrix of each example (rows truth).

    Each process scores its share of the examples, and all have the whole: every one must call it.
    """
    counts = np.zeros((len(examples), CLASSES, CLASSES), np.int64)
    for batch in pipeline.eval_batches(examples, batch_size, *groups.process_share()):
        predicted = predict(batch["image"])
        found = np.asarray(metrics.confusion_matrices(batch["mask"], predicted, CLASSES))
        kept = batch["index"] >= 0
        counts[batch["index"][kept]] = found[kept]
    return metrics.sum_over_hosts(counts)


def measure_test(predict: Predict, examples: pipeline.Examples, batch_size: int) -> np.ndarray:
    """Returns int64 `[N, C, C + 4]`: of each class its row of the confusion matrix, then what its
    BF score is made of (`metrics.bf_counts`), at the examples' mask size.

    The other functions take this or, without BF scores, what `measure` returns; every process must
    call it, as that.
    """
    counts = np.zeros((len(examples), CLASSES, CLASSES + 4), np.int64)
    for batch in pipeline.eval_batches(examples, batch_size, *groups.process_share()):
        predicted = np.asarray(predict(batch["image"]))
        confusion = metrics.confusion_matrices(batch["mask"], predicted, CLASSES)
        boundary = metrics.bf_counts(batch["mask"], predicted, CLASSES)
        kept = batch["index"] >= 0
        found = np.concatenate([np.asarray(confusion, np.int64), boundary], -1)
        counts[batch["index"][kept]] = found[kept]
    return metrics.sum_over_hosts(counts)


def measure_calibration(
    probabilities: Callable[[np.ndarray], Any], examples: pipeline.Examples, batch_size: int
) -> np.ndarray:
    """Counts how sure the network is of its pixels, and how often it is right.

    The pixels whose class is known are put into bins by the probability of their most probable
    class, as `metrics.expected_calibration_error` does.

    Args:
        probabilities: uint8 images `[B, S, S, 3]` → float32 `[B, M, M, C]`, M the examples' mask
            size.
        examples: what is looked at.
        batch_size: images a pass.

    Returns:
        float64 `[N, CALIBRATION_BINS, 3]`: of each example and bin the pixels, those of them that
        are right, and the sum of their probabilities.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    found = np.zeros((len(examples), CALIBRATION_BINS, 3))
    for batch in pipeline.eval_batches(examples, batch_size):
        given = np.asarray(probabilities(batch["image"]))
        predicted, sure = given.argmax(-1), given.max(-1).astype(np.float64)
        for i, index in enumerate(batch["index"]):
            if index < 0:
                continue
            known = batch["mask"][i] != IGNORE
            right = (predicted[i] == batch["mask"][i])[known]
            confidence = sure[i][known]
            which = np.searchsorted(edges, confidence)
            for k, weights in enumerate((None, right, confidence)):
                found[index, :, k] = np.bincount(which, weights, CALIBRATION_BINS)
    return found


def calibration(
    counts: np.ndarray, examples: pipeline.Examples, bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Returns how well the pixels' probabilities are calibrated, by data set and over `all` images.

    Each has `images`, `pixels` and `right` (counts by bin), `confidence` (mean probability by bin,
    NaN in an empty one), `expected_calibration_error` and, with `bootstrap`, its 95 % `interval`
    over resamples of the images.

    Args:
        counts: from `measure_calibration`.
        examples: what they are of.
        bootstrap: resamples; 0: no interval.
        seed: of the resampling.
    """

    def summarize_bins(chosen: np.ndarray) -> dict[str, Any]:
        part = counts[chosen]
        pixels, right, confidence = part.sum(0).T
        with np.errstate(invalid="ignore"):
            mean = confidence / pixels
        found = {
            "images": len(part),
            "pixels": pixels.astype(int).tolist(),
            "right": right.astype(int).tolist(),
            "confidence": mean.tolist(),
            "expected_calibration_error": float(_calibration_error(part.sum(0))),
        }
        if bootstrap and len(part) > 1:
            drawn = groups.resamples(len(part), bootstrap, np.random.default_rng(seed))
            summed = np.einsum("rn,nbk->rbk", drawn.astype(np.float64), part)
            found["interval"] = groups.interval(_calibration_error(summed))
        return found

    return groups.by_dataset(examples.datasets, summarize_bins)


def _calibration_error(counts: np.ndarray) -> np.ndarray:
    """Share of pixels by which confidence misses accuracy, `[...]` of counts `[..., B, 3]`."""
    pixels, right, confidence = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        return np.abs(right - confidence).sum(-1) / pixels.sum(-1)


def _split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns confusion matrices `[..., C, C]` and, if there are any, BF counts `[..., C, 4]`."""
    boundary = counts[..., CLASSES:]
    return counts[..., :CLASSES], boundary if boundary.shape[-1] else None


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
        "iou_cytoplasm": float(iou[CYTOPLASM]),
        "iou_nucleus": float(iou[NUCLEUS]),
    }


def rows(counts: np.ndarray, examples: pipeline.Examples) -> list[dict[str, Any]]:
    """Returns one row an example, with `ROW_COLUMNS` as keys; areas are in pixels of mask size."""
    counts, boundary = _split(counts)
    truth = from_areas(*_areas(counts.sum(2)))
    found = from_areas(*_areas(counts.sum(1)))
    iou, dice = metrics.iou(counts), metrics.dice(counts)
    headlines = {name: getattr(metrics, name)(counts) for name in _HEADLINES}
    bf = np.full(iou.shape, np.nan) if boundary is None else metrics.bf_from_counts(boundary)
    mean_bf = _mean_known(bf)
    errors = _relative_errors(truth, found)
    return [
        {
            "dataset": dataset,
            "id": id_,
            "label": int(label),
            **{name: float(headlines[name][i]) for name in _HEADLINES},
            "iou_background": float(iou[i, BACKGROUND]),
            "iou_cytoplasm": float(iou[i, CYTOPLASM]),
            "iou_nucleus": float(iou[i, NUCLEUS]),
            "dice_cytoplasm": float(dice[i, CYTOPLASM]),
            "dice_nucleus": float(dice[i, NUCLEUS]),
            "bf_score": float(mean_bf[i]),
            **{f"bf_score_{c}": float(bf[i, k]) for k, c in enumerate(MASK_CLASSES)},
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
        counts: from `measure_test` or `measure`.
        examples: what they are of.
        bootstrap: resamples of images behind each 95 % interval; 0: no intervals.
        seed: of the resampling.
    """
    labels = examples.labels

    def with_types(chosen: np.ndarray) -> dict[str, Any]:
        found = summarize(counts[chosen], bootstrap, seed)
        by_type = {}
        for label in sorted(set(labels[chosen].tolist())):
            name = "unknown" if label < 0 else CELL_TYPES[label]
            by_type[name] = summarize(counts[chosen & (labels == label)], bootstrap, seed)
        return {**found, "by_type": by_type}

    return groups.by_dataset(examples.datasets, with_types)


def summarize(counts: np.ndarray, bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """Returns the metrics of a set of images from `measure_test`'s or `measure`'s counts of each.

    Region metrics come from the sum of the confusion matrices. The BF score is the mean over images
    of each one's mean over classes, that of a class the mean over images; what is absent in truth
    or prediction has none (`metrics.bf_score`). Intervals are the 2.5th and 97.5th percentiles over
    resamples of the images (Efron's percentile bootstrap).
    """
    counts, boundary = _split(counts)
    values = _metrics(counts.sum(0)[None])
    point = {name: float(v[0]) for name, v in values.items()}
    found = {
        "images": len(counts),
        **{name: point[name] for name in _HEADLINES},
        "iou": {c: point[f"iou_{c}"] for c in MASK_CLASSES},
        "dice": {c: point[f"dice_{c}"] for c in MASK_CLASSES},
        "recall": {c: point[f"recall_{c}"] for c in MASK_CLASSES},
        "confusion": counts.sum(0).tolist(),
        "nc": _nc_agreement(counts),
    }
    if boundary is not None:
        found["bf_score"] = _bf_summary(boundary)
    if bootstrap and len(counts) > 1:
        rng = np.random.default_rng(seed)
        drawn = groups.resamples(len(counts), bootstrap, rng)
        summed = np.einsum("rn,nij->rij", drawn.astype(np.float64), counts.astype(np.float64))
        intervals = {name: groups.interval(v) for name, v in _metrics(summed).items()}
        if boundary is not None:
            intervals |= _bf_intervals(boundary, drawn)
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
    counts, _ = _split(counts)
    truth = from_areas(*_areas(counts.sum(2)))
    found = from_areas(*_areas(counts.sum(1)))
    errors = _relative_errors(truth, found)
    return errors[np.isfinite(errors)]


_HEADLINES = ("global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou")


def _metrics(summed: np.ndarray) -> dict[str, np.ndarray]:
    values = {name: getattr(metrics, name)(summed) for name in _HEADLINES}
    for name in ("iou", "dice", "recall"):
        per_class = getattr(metrics, name)(summed)
        for i, c in enumerate(MASK_CLASSES):
            values[f"{name}_{c}"] = per_class[..., i]
    return values


def _bf_summary(boundary: np.ndarray) -> dict[str, Any]:
    totals = metrics.BFTotals.from_counts(boundary)
    names = MASK_CLASSES
    return {
        "mean": totals.mean,
        **{c: float(value) for c, value in zip(names, totals.class_means)},
        "mean_absent_as_zero": totals.mean_absent_as_zero,
        "absent_on_one_side": {c: int(number) for c, number in zip(names, totals.one_sided)},
    }


def _bf_intervals(boundary: np.ndarray, drawn: np.ndarray) -> dict[str, list[float]]:
    """Returns the intervals of the BF scores; `drawn` int `[R, N]` as of `groups.resamples`."""
    scores = metrics.bf_from_counts(boundary)
    columns = np.concatenate([_mean_known(scores)[:, None], scores], 1)
    known = ~np.isnan(columns)
    images = drawn @ known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = drawn @ np.where(known, columns, 0) / images
    names = ("mean", *MASK_CLASSES)
    return {f"bf_score_{name}": groups.interval(means[:, k]) for k, name in enumerate(names)}


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)


def _areas(by_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return by_class[:, NUCLEUS], by_class[:, CYTOPLASM]


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
