"""wbc_jax.evaluate.calibration: the pixels' probabilities against the metric."""

import math
import types

import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.evaluate import calibration
from wbc_jax.labels import IGNORE


def _calibrated(monkeypatch, images=6, size=12, seed=4):
    """Returns binned counts of random probabilities, their examples, masks and probabilities."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (images, size, size)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    scores = rng.random((images, size, size, 3)) + 2 * (truth[..., None] == np.arange(3))
    given = (scores / scores.sum(-1, keepdims=True)).astype(np.float32)
    batches = [
        {"index": np.array([3, 0, 5, 1]), "mask": truth[[3, 0, 5, 1]], "image": [3, 0, 5, 1]},
        # The padding of the last batch does not count.
        {"index": np.array([4, 2, -1, -1]), "mask": truth[[4, 2, 0, 0]], "image": [4, 2, 0, 0]},
    ]
    monkeypatch.setattr(calibration.pipeline, "eval_batches", lambda *_: batches)
    examples = _Sized(["a", "a", "b", "a", "b", "a"])
    return calibration.measure(lambda i: given[i], examples, 4), examples, truth, given


class _Sized(types.SimpleNamespace):
    def __init__(self, datasets):
        super().__init__(datasets=datasets)

    def __len__(self):
        return len(self.datasets)


def test_calibration_of_pixels_is_that_of_the_metric(monkeypatch):
    counts, examples, truth, given = _calibrated(monkeypatch)
    known = truth != IGNORE
    assert counts.shape == (6, 15, 3)
    np.testing.assert_array_equal(counts[..., 0].sum(1), known.sum((1, 2)))
    right = (given.argmax(-1) == truth) & known
    np.testing.assert_array_equal(counts[..., 1].sum(1), right.sum((1, 2)))
    found = calibration.results(counts, examples, 200)
    assert list(found) == ["a", "b", "all"]
    for name, images in (("a", [0, 1, 3, 5]), ("b", [2, 4]), ("all", [0, 1, 2, 3, 4, 5])):
        labels, probabilities = truth[images][known[images]], given[images][known[images]]
        expected = metrics.expected_calibration_error(labels.astype(int), probabilities)
        one = found[name]
        assert one["expected_calibration_error"] == pytest.approx(expected, rel=1e-6)
        assert sum(one["pixels"]) == len(labels)
        assert sum(one["right"]) == (probabilities.argmax(1) == labels).sum()
        low, high = one["interval"]
        assert low <= high and low < expected * 1.5
    # The mean probability of a bin lies in it, and is not there where nothing is.
    for k, (pixels, mean) in enumerate(zip(found["all"]["pixels"], found["all"]["confidence"])):
        assert k / 15 < mean <= (k + 1) / 15 if pixels else math.isnan(mean)
    assert found["all"]["pixels"][:5] == [0] * 5  # the highest of three is never below 1/3
    assert "interval" not in calibration.results(counts, examples, 0)["a"]


def test_sure_and_right_pixels_are_calibrated(monkeypatch):
    counts, examples, *_ = _calibrated(monkeypatch)
    counts[:] = 0
    counts[:, -1] = [10, 10, 10]
    assert calibration.results(counts, examples, 20)["all"]["expected_calibration_error"] == 0
    counts[:, -1] = [10, 5, 10]
    found = calibration.results(counts, examples, 20)["all"]
    assert found["expected_calibration_error"] == 0.5 and found["interval"] == [0.5, 0.5]
