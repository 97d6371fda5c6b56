"""wbc_jax.metrics.ratios: undefined ratios and means, by hand."""

import numpy as np

from wbc_jax.metrics import ratios


def test_ratio_of_nothing_is_nan():
    with np.errstate(all="raise"):
        found = ratios.ratio(np.array([1, 0, 3]), np.array([2, 0, 0]))
    np.testing.assert_array_equal(found, [0.5, np.nan, np.nan])


def test_mean_leaves_out_nan():
    values = np.array([[1, np.nan, 4], [np.nan, np.nan, np.nan], [1, 2, 6]])
    with np.errstate(all="raise"):
        found = ratios.nan_mean(values)
    np.testing.assert_array_equal(found, [2.5, np.nan, 3])
    assert np.isnan(ratios.nan_mean(np.zeros(0)))
