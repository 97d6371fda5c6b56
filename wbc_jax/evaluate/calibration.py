"""Calibration of a segmenter: how confident it is in its pixels, and how often it is right."""

from collections.abc import Callable
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.evaluate import groups
from wbc_jax.labels import IGNORE
from wbc_jax.metrics import classification, statistics
from wbc_jax.metrics.ratios import ratio

BINS = 15
"""Bins of equal width between 0 and 1, as in `metrics.expected_calibration_error`."""


def measure(
    probabilities: Callable[[np.ndarray], Any], examples: pipeline.Examples, batch_size: int
) -> np.ndarray:
    """Counts how confident the network is in its pixels, and how often it is right.

    Pixels of known class are sorted into bins by the probability of their most probable class, as
    in `metrics.expected_calibration_error`.

    Args:
        probabilities: uint8 images `[B, S, S, 3]` → float32 `[B, M, M, C]`, M the examples' mask
            size.
        examples: the N examples.
        batch_size: images per batch.

    Returns:
        float64 `[N, BINS, 3]`: number of pixels, number of right pixels and sum of
        confidences, by example and bin.
    """
    found = np.zeros((len(examples), BINS, 3))
    for batch in pipeline.eval_batches(examples, batch_size):
        given = np.asarray(probabilities(batch["image"]))
        predicted, confidence = given.argmax(-1), given.max(-1).astype(np.float64)
        for i, index in enumerate(batch["index"]):
            if index < 0:
                continue
            known = batch["mask"][i] != IGNORE
            right = (predicted[i] == batch["mask"][i])[known]
            own = confidence[i][known]
            bins = classification.confidence_bins(own, BINS)
            for k, weights in enumerate((None, right, own)):
                found[index, :, k] = np.bincount(bins, weights, BINS)
    return found


def results(
    binned: np.ndarray, examples: pipeline.Examples, bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Returns the calibration of the pixels' probabilities, by data set and over `all` images.

    Each result has `images`, `pixels` and `right` (counts by bin), `confidence` (mean probability
    by bin, NaN in an empty one), `expected_calibration_error` and, with `bootstrap`, its 95 %
    `interval` over resamples of the images.

    Args:
        binned: `[N, BINS, 3]`, from `measure`.
        examples: the N examples.
        bootstrap: number of resamples; 0: no interval.
        seed: seed of the resampling.
    """

    def summarize_bins(chosen: np.ndarray) -> dict[str, Any]:
        own = binned[chosen]
        pixels, right, confidence = own.sum(0).T
        found = {
            "images": len(own),
            "pixels": pixels.astype(int).tolist(),
            "right": right.astype(int).tolist(),
            "confidence": ratio(confidence, pixels).tolist(),
            "expected_calibration_error": float(_calibration_error(own.sum(0))),
        }
        if bootstrap and len(own) > 1:
            summed = statistics.sum_drawn(own, statistics.draw_images(len(own), bootstrap, seed))
            found["interval"] = metrics.interval(_calibration_error(summed)).tolist()
        return found

    return groups.by_dataset(examples.datasets, summarize_bins)


def _calibration_error(binned: np.ndarray) -> np.ndarray:
    """Returns the expected calibration error, `[...]`, of `measure`'s `[..., B, 3]`."""
    pixels, right, confidence = np.moveaxis(binned, -1, 0)
    return classification.calibration_error(right - confidence, pixels.sum(-1))
