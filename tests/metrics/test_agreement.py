"""wbc_jax.metrics.agreement: by hand, and against Bland and Altman's example."""

import math

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from wbc_jax import metrics


def test_limits_of_agreement_by_hand():
    # Differences 1, 3, −1, 1 around 1: s² = (0 + 4 + 4 + 0) / 3; t(0.975, 3) = 3.18245.
    found = metrics.limits_of_agreement([10, 20, 30, 40], [11, 23, 29, 41], relative=False)
    s = math.sqrt(8 / 3)
    assert (found.images, found.bias) == (4, 1)
    np.testing.assert_allclose(found.limits, [1 - 1.959964 * s, 1 + 1.959964 * s], rtol=1e-6)
    half = 3.182446 * s / 2
    np.testing.assert_allclose(found.bias_interval, [1 - half, 1 + half], rtol=1e-6)
    half = 3.182446 * s * math.sqrt(1 / 4 + 1.959964**2 / 6)
    for limit, interval in zip(found.limits, (found.lower_interval, found.upper_interval)):
        np.testing.assert_allclose(interval, [limit - half, limit + half], rtol=1e-6)


def test_bland_and_altmans_peak_flow_meters():
    # Bland and Altman 1986, Table 1, first readings of the Wright and the mini meter: "the mean
    # difference is -2.1 l/min and standard deviation 38.8 l/min", limits -79.7 and 75.5 (with 2 s),
    # bias within -22.0 and 17.8.
    large = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = metrics.limits_of_agreement(mini, large, relative=False)
    assert found.images == 17 and round(found.bias, 1) == -2.1
    assert round((found.limits[1] - found.bias) / stats.norm.ppf(0.975), 1) == 38.8
    np.testing.assert_allclose(found.bias_interval, (-22.0, 17.8), atol=0.06)


def test_relative_limits_are_those_of_logarithms():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(0, 1, 400)
    measured = truth * 1.1 * rng.lognormal(0, 0.2, 400)
    found = metrics.limits_of_agreement(truth, measured)
    plain = metrics.limits_of_agreement(np.log(truth), np.log(measured), relative=False)
    for name in ("bias", "limits", "bias_interval", "lower_interval", "upper_interval"):
        np.testing.assert_allclose(getattr(found, name), np.expm1(getattr(plain, name)))
    assert found.bias_interval[0] < 0.1 < found.bias_interval[1]
    inside = (found.limits[0] < measured / truth - 1) & (measured / truth - 1 < found.limits[1])
    assert 0.93 < inside.mean() < 0.97
    # Errors in proportion grow with size; their logarithms do not.
    assert found.spread_p > 0.05 and abs(found.spread_trend) < 0.1
    absolute = metrics.limits_of_agreement(truth, measured, relative=False)
    assert absolute.spread_trend > 0.3 and absolute.spread_p < 1e-6
    difference = measured - truth
    expected = stats.spearmanr(np.abs(difference - difference.mean()), (measured + truth) / 2)
    assert (absolute.spread_trend, absolute.spread_p) == tuple(expected)


def test_limits_of_agreement_leave_out_what_is_no_ratio():
    truth = [1, 2, np.nan, np.inf, 3, 0, 4]
    measured = [1.1, 2, 1, 1, 3.3, 1, np.inf]
    found = metrics.limits_of_agreement(truth, measured)
    assert found == metrics.limits_of_agreement([1, 2, 3], [1.1, 2, 3.3])
    np.testing.assert_allclose(found.bias, 1.1 ** (2 / 3) - 1)
    assert metrics.limits_of_agreement(truth, measured, relative=False).images == 4
    one = metrics.limits_of_agreement([2], [3])
    assert (one.images, one.bias) == (1, pytest.approx(0.5)) and np.isnan(one.limits).all()
    none = metrics.limits_of_agreement([], [])
    assert none.images == 0 and math.isnan(none.bias) and np.isnan(none.bias_interval).all()
    same = metrics.limits_of_agreement([1, 2, 3], [1, 2, 3])
    assert same.limits == (0, 0) and math.isnan(same.spread_trend)


def test_limits_of_agreement_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        metrics.limits_of_agreement([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="level is 95"):
        metrics.limits_of_agreement([1, 2], [1, 2], level=95)


def test_cohens_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 300)
    second = np.where(rng.random(300) < 0.7, first, rng.integers(0, 4, 300))
    matrix = metrics.confusion_from_labels(first, second, 5)  # one class is never used
    expected = sklearn.metrics.cohen_kappa_score(first, second)
    np.testing.assert_allclose(metrics.cohens_kappa(matrix), expected)
    # By hand: p₀ = 0.7, pₑ = 0.5 · 0.6 + 0.5 · 0.4 = 0.5 (Wikipedia's first example: κ = 0.4).
    by_hand = [[20, 5], [10, 15]]
    assert metrics.cohens_kappa(by_hand) == pytest.approx(0.4)
    both = metrics.cohens_kappa([by_hand, [[3, 0], [0, 2]]])
    np.testing.assert_allclose(both, [0.4, 1])
    assert np.isnan(metrics.cohens_kappa([[5, 0], [0, 0]]))
    assert np.isnan(metrics.cohens_kappa(np.zeros((3, 3))))
    assert metrics.cohens_kappa([[0, 5], [5, 0]]) == pytest.approx(-1)
    with pytest.raises(ValueError, match="confusion matrices"):
        metrics.cohens_kappa([[-1, 0], [0, 1]])
