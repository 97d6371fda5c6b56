"""Scores with intervals, against SciPy."""

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as oracle

from helpers import paper_runs
from wbc_jax.papers import scores


def test_intervals_are_a_bootstrap_of_images():
    found = [paper_runs.probabilities(seed).argmax(1) for seed in (1, 2, 3)]
    truth, predicted = np.tile(paper_runs.labels(), 3), np.concatenate(found)
    matrix = oracle.confusion_matrix(truth, predicted)
    plain = scores.classification_scores(matrix, 4000)["overall", "plain"]
    result = scipy.stats.bootstrap(
        (truth == predicted,), np.mean, method="percentile", n_resamples=4000,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    low, high = result.confidence_interval
    assert (plain.low, plain.high) == pytest.approx((low, high), abs=0.015)
