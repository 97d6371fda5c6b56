"""Scores of segmentation: metrics of a split, and one row per image."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.evaluate import groups
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, IGNORE, MASK_CLASSES, NUCLEUS
from wbc_jax.metrics import SegmentationCounts, statistics
from wbc_jax.metrics.nc_ratio import NCRatio, from_areas
from wbc_jax.metrics.ratios import nan_mean, ratio

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 images `[B, S, S, 3]` → uint8 classes `[B, M, M]`, M the examples' mask size."""

CLASSES = len(MASK_CLASSES)
SCORE = "mean_iou"
"""Metric that selects the best checkpoint, on the validation split."""
SCORE_NAME = "mean IoU"
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
    "iou_cell",
    "dice_cell",
    "bf_score",
    "bf_score_background",
    "bf_score_cytoplasm",
    "bf_score_nucleus",
    "bf_score_absent_as_zero",
    "bf_one_sided_classes",
    "truth_nucleus_px",
    "truth_cytoplasm_px",
    "nucleus_px",
    "cytoplasm_px",
    "truth_nc_ratio",
    "nc_ratio",
    "nc_relative_error",
    "flag",
)


def measure(predict: Predict, examples: pipeline.Examples, batch_size: int) -> SegmentationCounts:
    """Returns the confusion matrix of each example; boundaries are not compared.

    Where an example's mask marks the whole cell alone, only the cell is compared (`whole`).
    Each process scores its share of the examples and receives all: every process must call it.
    """

    def count(truth: np.ndarray, predicted: Any) -> SegmentationCounts:
        # Unchecked, so that predictions stay on their device.
        confusion = metrics.confusion_matrices(truth, predicted, CLASSES)
        return SegmentationCounts(np.asarray(confusion, np.int64))

    whole = bool(examples.cell_only.any())
    found = SegmentationCounts.zero(len(examples), CLASSES, boundary=False, whole=whole)
    return _fill(found, count, predict, examples, batch_size)


def measure_test(
    predict: Predict, examples: pipeline.Examples, batch_size: int
) -> SegmentationCounts:
    """Returns `measure` with boundary counts, at the examples' mask size.

    Every process must call it, as for `measure`.
    """

    def count(truth: np.ndarray, predicted: Any) -> SegmentationCounts:
        return SegmentationCounts.of(truth, np.asarray(predicted), CLASSES)

    whole = bool(examples.cell_only.any())
    found = SegmentationCounts.zero(len(examples), CLASSES, whole=whole)
    return _fill(found, count, predict, examples, batch_size)


def _fill(
    found: SegmentationCounts,
    count: Callable[[np.ndarray, Any], SegmentationCounts],
    predict: Predict,
    examples: pipeline.Examples,
    batch_size: int,
) -> SegmentationCounts:
    """Fills `found` with the counts of this process's batches, and adds those of the others."""
    cell_only = examples.cell_only
    for batch in pipeline.eval_batches(examples, batch_size, *groups.process_share()):
        kept = batch["index"] >= 0
        truth, predicted = batch["mask"], predict(batch["image"])
        whole = (kept & cell_only[batch["index"]])[:, None, None]
        if whole.any():
            counts = count(np.where(whole, np.uint8(IGNORE), truth), predicted)
            # Whatever is not background is cell.
            cell = np.where(whole, truth != BACKGROUND, np.uint8(IGNORE))
            confusion = metrics.confusion_matrices(cell, predicted, CLASSES)[:, :2]
            counts = dataclasses.replace(counts, whole=np.asarray(confusion, np.int64))
        else:
            counts = count(truth, predicted)
        found.put(batch["index"][kept], counts.select(kept))
    return metrics.sum_over_hosts(found)


def training_summary(confusion: np.ndarray) -> dict[str, float]:
    """Returns the metrics logged during training, from the confusion matrix of the drawn images."""
    return {
        "mean_iou": float(metrics.mean_iou(confusion)),
        "global_accuracy": float(metrics.global_accuracy(confusion)),
    }


def validation(counts: SegmentationCounts, examples: pipeline.Examples) -> dict[str, float]:
    """Returns the metrics logged for the validation split, and `score`.

    The score is the mean over data sets of each set's mean IoU: a small set weighs as much as a
    large one. Whole cells without parts do not count. NaN without images.
    """
    parts = ~counts.cell_only
    counts = counts.select(parts)
    total = counts.sum().confusion
    iou = metrics.iou(total)
    score = groups.mean_over(
        [name for name, kept in zip(examples.datasets, parts) if kept],
        lambda chosen: float(metrics.mean_iou(counts.select(chosen).sum().confusion)),
    )
    return {
        "score": score,
        **training_summary(total),
        "iou_cytoplasm": float(iou[CYTOPLASM]),
        "iou_nucleus": float(iou[NUCLEUS]),
    }


def rows(counts: SegmentationCounts, examples: pipeline.Examples) -> list[dict[str, Any]]:
    """Returns one row per example, with `ROW_COLUMNS` as keys; areas are pixels at mask size.

    `bf_score` and its parts are MATLAB's, as in `summarize`; `bf_one_sided_classes` is the number
    of classes that only truth or only prediction has. Where the truth is a whole cell alone, only
    `iou_cell`, `dice_cell` and the prediction's areas, ratio and flag are known; the rest is NaN.
    """
    truth, found = _nc_ratios(counts)
    unknown, of_cell = counts.cell_only, _cell_scores(_cells(counts))
    iou, dice = metrics.iou(counts.confusion), metrics.dice(counts.confusion)
    headlines = {name: getattr(metrics, name)(counts.confusion) for name in _HEADLINES}
    if counts.boundary is None:
        bf = zeroed = np.full(iou.shape, np.nan)
        one_sided = np.zeros(iou.shape, bool)
    else:
        bf, zeroed, one_sided = metrics.bf_per_image(counts.boundary)
    mean_bf, mean_zeroed = nan_mean(bf), nan_mean(zeroed)
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
            **{name: float(values[i]) for name, values in of_cell.items()},
            "bf_score": float(mean_bf[i]),
            **{f"bf_score_{c}": float(bf[i, k]) for k, c in enumerate(MASK_CLASSES)},
            "bf_score_absent_as_zero": float(mean_zeroed[i]),
            "bf_one_sided_classes": int(one_sided[i].sum()),
            "truth_nucleus_px": float("nan") if unknown[i] else int(truth.nucleus_px[i]),
            "truth_cytoplasm_px": float("nan") if unknown[i] else int(truth.cytoplasm_px[i]),
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
    counts: SegmentationCounts, examples: pipeline.Examples, bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Returns the metrics of each data set and of `all` images, each also by cell type.

    Args:
        counts: from `measure_test` or, without BF scores, from `measure`.
        examples: the examples counted.
        bootstrap: resamples of images behind each 95 % interval; 0: no intervals.
        seed: seed of the resampling.
    """
    labels = examples.labels

    def with_types(chosen: np.ndarray) -> dict[str, Any]:
        found = summarize(counts.select(chosen), bootstrap, seed)
        by_type = {}
        for label in sorted(set(labels[chosen].tolist())):
            name = "unknown" if label < 0 else CELL_TYPES[label]
            by_type[name] = summarize(counts.select(chosen & (labels == label)), bootstrap, seed)
        return {**found, "by_type": by_type}

    return groups.by_dataset(examples.datasets, with_types)


def summarize(counts: SegmentationCounts, bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """Returns the metrics of a set of images.

    Region metrics come from the summed confusion matrices. The BF score is the mean over images of
    each image's mean over classes; that of a class is the mean over images. A class that only the
    truth or only the prediction has counts as 0 (`mean_absent_as_zero`, `absent_as_zero`).
    MATLAB's value (`mean` and the classes' names) leaves it out; `images_left_out` counts the
    images of which it leaves a class out. Intervals are the 2.5th and 97.5th percentiles over
    resamples of the images (Efron's percentile bootstrap).

    `nc` holds the number of `images` with a finite N/C ratio in truth and prediction, on which the
    error and the correlation rest; `flagged`, the others; and `missed`, those of `flagged` whose
    truth has a finite ratio.

    `iou_cell` and `dice_cell` are those of nucleus and cytoplasm together, from the sums over all
    images. Of these, `cell_only_images` have a truth that marks the whole cell alone; they count in
    nothing else but `images`.
    """
    everything, counts = counts, counts.select(~counts.cell_only)
    total = counts.sum()
    point = {name: float(v[0]) for name, v in _region_scores(total.confusion[None]).items()}
    found = {
        "images": len(everything),
        "cell_only_images": len(everything) - len(counts),
        **{name: point[name] for name in _HEADLINES},
        "iou": {c: point[f"iou_{c}"] for c in MASK_CLASSES},
        "dice": {c: point[f"dice_{c}"] for c in MASK_CLASSES},
        "recall": {c: point[f"recall_{c}"] for c in MASK_CLASSES},
        **{name: float(v[0]) for name, v in _cell_scores(_cells(everything).sum(0)[None]).items()},
        "confusion": total.confusion.tolist(),
        "nc": _nc_agreement(counts),
    }
    if total.bf is not None:
        found["bf_score"] = _bf_summary(total.bf)
    if bootstrap and len(everything) > 1:
        # Those of the parts are the same with and without whole cells.
        cells = statistics.draw_images(len(everything), bootstrap, np.random.default_rng(seed))
        scores = _cell_scores(statistics.sum_drawn(_cells(everything), cells))
        found["intervals"] = {name: metrics.interval(v).tolist() for name, v in scores.items()}
        if len(counts) > 1:
            found["intervals"] |= _intervals(counts, bootstrap, np.random.default_rng(seed))
    return found


def nc_errors(counts: SegmentationCounts) -> np.ndarray:
    """Returns |predicted − true| / true N/C of the images where both ratios are finite."""
    errors = _relative_errors(*_nc_ratios(counts))
    return errors[np.isfinite(errors)]


_HEADLINES = ("global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou")


def _region_scores(summed: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the region metrics of summed confusion matrices, `[R]` from `[R, C, C]`."""
    values = {name: getattr(metrics, name)(summed) for name in _HEADLINES}
    for name in ("iou", "dice", "recall"):
        per_class = getattr(metrics, name)(summed)
        for i, c in enumerate(MASK_CLASSES):
            values[f"{name}_{c}"] = per_class[..., i]
    return values


def _cells(counts: SegmentationCounts) -> np.ndarray:
    """Returns the pixels of each image by background and cell, int64 `[N, 2, 2]`, rows truth."""
    united = np.zeros((CLASSES, 2), np.int64)
    united[BACKGROUND, 0] = 1
    united[[CYTOPLASM, NUCLEUS], 1] = 1
    found = united.T @ counts.confusion @ united
    return found if counts.whole is None else found + counts.whole @ united


def _cell_scores(summed: np.ndarray) -> dict[str, np.ndarray]:
    """Returns IoU and Dice of the cell, `[R]` from `_cells` summed, `[R, 2, 2]`."""
    return {"iou_cell": metrics.iou(summed)[..., 1], "dice_cell": metrics.dice(summed)[..., 1]}


def _bf_summary(totals: metrics.BFTotals) -> dict[str, Any]:
    names, zeroed = MASK_CLASSES, totals.class_means_absent_as_zero
    return {
        "mean": totals.mean,
        **{c: float(value) for c, value in zip(names, totals.class_means)},
        "mean_absent_as_zero": totals.mean_absent_as_zero,
        "absent_as_zero": {c: float(value) for c, value in zip(names, zeroed)},
        "images_left_out": int(totals.one_sided_images),
        "absent_on_one_side": {c: int(number) for c, number in zip(names, totals.one_sided)},
    }


def _intervals(
    counts: SegmentationCounts, bootstrap: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Returns the 95 % interval of each metric; all but the N/C error's rest on the same draws."""
    drawn = statistics.draw_images(len(counts), bootstrap, rng)
    scores = _region_scores(statistics.sum_drawn(counts.confusion, drawn))
    if counts.boundary is not None:
        bf, zeroed, _ = metrics.bf_per_image(counts.boundary)
        for end, by_class in (("", bf), ("_absent_as_zero", zeroed)):
            columns = np.concatenate([nan_mean(by_class)[:, None], by_class], 1)
            known = ~np.isnan(columns)
            sums = statistics.sum_drawn(np.where(known, columns, 0), drawn)
            means = ratio(sums, statistics.sum_drawn(known, drawn))
            names = ("mean", *MASK_CLASSES)
            scores |= {f"bf_score_{name}{end}": means[:, k] for k, name in enumerate(names)}
    intervals = {name: metrics.interval(values).tolist() for name, values in scores.items()}
    errors, nan = nc_errors(counts), float("nan")
    intervals["nc_median_relative_error"] = (
        metrics.bootstrap_interval(np.median, errors, resamples=bootstrap, seed=rng).tolist()
        if len(errors)
        else [nan, nan]
    )
    return intervals


def _nc_ratios(counts: SegmentationCounts) -> tuple[NCRatio, NCRatio]:
    """Returns the N/C ratios of truth and prediction; NaN is the truth of whole cells alone."""
    predicted = counts.confusion.sum(1)
    if counts.whole is not None:
        predicted = predicted + counts.whole.sum(1)
    truth, found = (
        from_areas(by_class[:, NUCLEUS], by_class[:, CYTOPLASM])
        for by_class in (counts.confusion.sum(2), predicted)
    )
    return truth, found


def _relative_errors(truth: NCRatio, found: NCRatio) -> np.ndarray:
    finite = np.isfinite(truth.nc_ratio) & np.isfinite(found.nc_ratio)
    with np.errstate(invalid="ignore"):
        return np.where(finite, np.abs(found.nc_ratio - truth.nc_ratio) / truth.nc_ratio, np.nan)


def _nc_agreement(counts: SegmentationCounts) -> dict[str, Any]:
    truth, found = _nc_ratios(counts)
    finite = np.isfinite(truth.nc_ratio) & np.isfinite(found.nc_ratio)
    x, y = truth.nc_ratio[finite], found.nc_ratio[finite]
    spread = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "images": int(finite.sum()),
        "median_relative_error": float(np.median(nc_errors(counts))) if len(x) else float("nan"),
        "spearman": float(scipy.stats.spearmanr(x, y).statistic) if spread else float("nan"),
        "flagged": int((~finite).sum()),
        "missed": int((np.isfinite(truth.nc_ratio) & ~finite).sum()),
    }
