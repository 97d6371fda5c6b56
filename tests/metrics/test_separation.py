"""Effect sizes and ROC curves of two groups: by hand, and against scipy and scikit-learn."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from wbc_jax.metrics import separation


def drawn(seed, n=40, m=25, ties=True):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 1, n), rng.normal(0.8, 1.5, m)
    return (np.round(first), np.round(second)) if ties else (first, second)


def test_probability_above_by_hand():
    # Pairs of (2, 4) with (1, 2, 3): 1 wins none of two, 2 ties one, 3 beats one.
    assert separation.probability_above([2, 4], [1, 2, 3]) == (0 + 0.5 + 1) / 6
    assert separation.probability_above([1, 2], [3, math.inf]) == 1
    assert separation.probability_above([math.inf], [math.inf, 3]) == 0.25
    assert math.isnan(separation.probability_above([math.nan], [1, 2]))


@pytest.mark.parametrize("seed", range(3))
def test_area_is_that_of_scipy_and_scikit_learn(seed):
    first, second = drawn(seed)
    found = separation.separate(first, second, resamples=20)
    labels = np.r_[np.zeros(len(first)), np.ones(len(second))]
    assert found.auroc == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, np.r_[first, second]), abs=1e-12
    )
    u = scipy.stats.mannwhitneyu(second, first).statistic
    assert found.auroc == pytest.approx(u / (len(first) * len(second)), abs=1e-12)
    larger = (second[:, None] > first).sum() - (second[:, None] < first).sum()
    assert found.delta == pytest.approx(larger / (len(first) * len(second)), abs=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_curve_is_that_of_scikit_learn(ties):
    first, second = drawn(5, ties=ties)
    labels = np.r_[np.zeros(len(first)), np.ones(len(second))]
    false, true, _ = sklearn_metrics.roc_curve(
        labels, np.r_[first, second], drop_intermediate=False
    )
    found = separation.roc(first, second)
    np.testing.assert_allclose(found, np.stack([false, true], 1), atol=1e-12)
    area = sklearn_metrics.auc(*found.T)
    assert area == pytest.approx(separation.probability_above(first, second), abs=1e-12)
    assert separation.roc([], [1]).shape == (0, 2)


def test_interval_has_the_width_that_theory_gives():
    first, second = drawn(1, 400, 300, ties=False)
    found = separation.separate(first, second, resamples=2000)
    # DeLong's variance, from the placements of each value in the other group.
    of_second = (second[:, None] > first).mean(1)
    of_first = (second[:, None] > first).mean(0)
    deviation = math.sqrt(np.var(of_second, ddof=1) / 300 + np.var(of_first, ddof=1) / 400)
    low, high = found.auroc_interval
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.08)
    assert low < found.auroc < high
    assert found.delta_interval == (2 * low - 1, 2 * high - 1)


def test_groups_keep_their_sizes_in_the_bootstrap():
    sizes = separation.interval_of_groups(
        lambda a, b: np.array([len(a), len(b)]), (np.ones(3), np.r_[np.zeros(7), math.nan]), 50
    )
    assert sizes.tolist() == [[3, 7], [3, 7]]
    assert np.isnan(separation.interval_of_groups(separation.quartiles, ([math.nan],))).all()


def test_epsilon_squared_is_scipys_h_over_n_less_one():
    rng = np.random.default_rng(3)
    groups = [np.round(rng.normal(mean, 1, n)) for mean, n in ((0, 10), (1, 15), (1.5, 8))]
    h = scipy.stats.kruskal(*groups).statistic
    assert separation.epsilon_squared(*groups) == pytest.approx(h / (33 - 1), abs=1e-12)
    assert separation.epsilon_squared([1, 2], [3, 4], [5, 6]) == pytest.approx(16 / 17.5)
    assert math.isnan(separation.epsilon_squared([1, 1], [1]))
    assert math.isnan(separation.epsilon_squared([1, 1], []))


def test_quartiles_are_numpys_and_may_be_infinite():
    values = np.random.default_rng(0).normal(size=38)
    np.testing.assert_allclose(separation.quartiles(values), np.percentile(values, [25, 50, 75]))
    inf = math.inf
    assert separation.quartiles([1, 2, 3, 4, inf]).tolist() == [2, 3, 4]
    assert separation.quartiles([1, 2, inf, inf]).tolist() == [1.75, inf, inf]
    assert separation.quartiles([inf, inf, math.nan]).tolist() == [inf, inf, inf]
    assert np.isnan(separation.quartiles([])).all()


def test_interval_of_infinite_medians():
    low, high = separation.interval_of_groups(
        separation.quartiles, ([1, 2, 3, math.inf, math.inf],), 500
    )
    assert low[1] == 1 or low[1] == 2
    assert high[1] == math.inf and not np.isnan([low, high]).any()
