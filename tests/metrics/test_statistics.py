"""wbc_jax.metrics.statistics: by hand, and against SciPy's tests and bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from wbc_jax import metrics
from wbc_jax.metrics import statistics


def test_distribution_by_hand():
    found = metrics.distribution([1, 2, np.nan, 3, 10])
    assert (found.images, found.mean, found.median) == (4, 4, 2.5)
    deviations = np.array([-3, -2, -1, 6.0])
    m2, m3, m4 = ((deviations**k).mean() for k in (2, 3, 4))
    np.testing.assert_allclose(found.standard_deviation, math.sqrt(4 * m2 / 3))
    np.testing.assert_allclose(found.skewness, math.sqrt(4 * 3) / 2 * m3 / m2**1.5)
    np.testing.assert_allclose(found.kurtosis, 3 / (2 * 1) * (5 * (m4 / m2**2 - 3) + 6))


def test_shapiro_wilk_by_the_table():
    # Shapiro and Wilk 1965's weights for n = 3 are ±0.7071: W = (0.7071 · range)² / Σ deviations².
    found = metrics.distribution([0, 1, 5])
    np.testing.assert_allclose(found.shapiro_w, (5**2 / 2) / (4 + 1 + 9), rtol=1e-6)
    # For n = 3, p = 6 / π · (asin √W − asin √(3/4)), exactly.
    expected = 6 / math.pi * (math.asin(math.sqrt(found.shapiro_w)) - math.asin(math.sqrt(0.75)))
    np.testing.assert_allclose(found.shapiro_p, expected, rtol=1e-4)
    rng = np.random.default_rng(0)
    assert metrics.distribution(rng.normal(size=300)).shapiro_p > 0.05
    assert metrics.distribution(rng.exponential(size=300)).shapiro_p < 1e-6


@pytest.mark.parametrize("values", [[], [1], [1, 2], [3, 3, 3, 3, 3], [np.nan, np.nan]])
def test_distribution_of_too_little(values):
    found = metrics.distribution(values)
    assert found.images == sum(not np.isnan(v) for v in values)
    assert math.isnan(found.shapiro_w) and math.isnan(found.kurtosis)


def test_group_comparison_by_hand():
    # Ranks 1 2 3 | 4 5 6 | 7 8 9: H = 12 / (9 · 10) · (6² + 15² + 24²) / 3 − 3 · 10.
    found = metrics.compare_groups({"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    h = 12 / 90 * (36 + 225 + 576) / 3 - 30
    np.testing.assert_allclose((found.h, found.p), (h, math.exp(-h / 2)))  # χ² with 2 degrees
    np.testing.assert_allclose(found.level, 0.05 / 3)
    assert [(p.first, p.second) for p in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    # U = 0 of 9, mean 4.5, variance 9 · 7 / 12, no continuity correction.
    z = 4.5 / math.sqrt(9 * 7 / 12)
    for pair in found.pairs:
        assert pair.u == 0
        np.testing.assert_allclose(pair.p, math.erfc(z / math.sqrt(2)))
        np.testing.assert_allclose(pair.p_bonferroni, 3 * pair.p)
        # 0.0495: significant for one pair, not for one of three.
        assert not pair.significant and pair.p < 0.05


def test_papers_level():
    # Paper B: "p < 0.017 for Bonferroni corrected Mann–Whitney U test", three networks.
    rng = np.random.default_rng(1)
    scores = {name: rng.normal(mean, 1, 80) for name, mean in (("cnn", 1), ("segnet", 1), ("u", 0))}
    found = metrics.compare_groups(scores)
    assert round(found.level, 3) == 0.017
    assert [pair.significant for pair in found.pairs] == [False, True, True]
    u, p = stats.mannwhitneyu(scores["cnn"], scores["u"], use_continuity=False)
    assert (found.pairs[1].u, found.pairs[1].p) == (u, p)


def test_pairs_count_only_where_the_groups_differ():
    # One pair of six is below 0.05 / 6, but Kruskal–Wallis sees no difference among the four.
    rng = np.random.default_rng(0)
    found = None
    for _ in range(2000):
        groups = {str(k): rng.normal(size=8) for k in range(4)}
        found = metrics.compare_groups(groups)
        if found.p >= 0.05 and min(pair.p for pair in found.pairs) < found.level:
            break
    else:
        pytest.fail("no such draw")
    assert not any(pair.significant for pair in found.pairs)


def test_groups_without_differences():
    found = metrics.compare_groups({"a": [1, 1, np.nan], "b": [1, 1, 1]})
    assert math.isnan(found.h) and math.isnan(found.p)
    (pair,) = found.pairs
    assert (pair.u, pair.p, pair.significant) == (3, 1, False)
    mixed = metrics.compare_groups({"a": [1, 1], "b": [1, 1], "c": [0, 2]})
    assert mixed.pairs[0].p == 1


def test_groups_must_hold_something():
    for groups in ({"a": [1, 2]}, {"a": [1, 2], "b": [np.nan]}):
        with pytest.raises(ValueError, match="give two or more, each with a value"):
            metrics.compare_groups(groups)


def test_paired_comparison_by_hand():
    first, second = [5, 7, 3, 9, np.nan, 4], [4, 4, 5, 5, 1, 4]
    found = metrics.compare_pairs(first, second)
    # Differences 1, 3, −2, 4, 0: ranks of |d| without the zero 1, 3, 2, 4; the negative sum is 2.
    assert (found.images, found.mean, found.median, found.wilcoxon) == (5, 1.2, 1, 2)
    # Exact: of the 16 signs, sums ≤ 2 are {}, {1}, {2}: 2 · 3 / 16.
    np.testing.assert_allclose(found.p, 6 / 16)
    assert found.interval[0] < 1.2 < found.interval[1]


def test_paired_test_sees_what_the_unpaired_misses():
    rng = np.random.default_rng(0)
    hard = rng.normal(0.8, 0.1, 60)
    first, second = hard + 0.005 + rng.normal(0, 0.002, 60), hard
    assert metrics.compare_pairs(first, second).p < 1e-6
    assert metrics.compare_groups({"first": first, "second": second}).pairs[0].p > 0.5
    low, high = metrics.compare_pairs(first, second).interval
    assert 0 < low < 0.005 < high


def test_paired_comparison_of_equal_runs_and_of_none():
    same = metrics.compare_pairs([1, 2, 3], [1, 2, 3])
    assert (same.mean, same.p, same.interval) == (0, 1, (0, 0))
    none = metrics.compare_pairs([np.nan], [1])
    assert none.images == 0 and math.isnan(none.p)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        metrics.compare_pairs([1, 2], [1, 2, 3])


def test_holm_by_hand():
    # 4 · 0.005, 3 · 0.01, 2 · 0.03, and 1 · 0.04, raised to the one before.
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(metrics.holm([0.2, np.nan, 0.6]), [0.4, np.nan, 0.6])
    assert metrics.holm([0.7, 0.8]).tolist() == [1, 1] and len(metrics.holm([])) == 0
    p = np.random.default_rng(0).random(50) ** 4
    found = metrics.holm(p)
    assert (found <= np.minimum(1, 50 * p)).all() and (found >= p).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    with pytest.raises(ValueError, match="numbers in"):
        metrics.holm([0.5, 1.5])


def test_interval_by_hand():
    np.testing.assert_allclose(metrics.interval(np.arange(101)), [2.5, 97.5])
    np.testing.assert_allclose(metrics.interval(np.arange(101), level=0.5), [25, 75])
    # Undefined samples are left out.
    values = np.concatenate([np.arange(1001.0), [np.nan]])
    assert metrics.interval(values).tolist() == [25, 975]
    assert np.isnan(metrics.interval([np.nan])).all()
    samples = np.stack([np.arange(101.0), np.full(101, np.nan)], axis=1)
    np.testing.assert_allclose(metrics.interval(samples), [[2.5, np.nan], [97.5, np.nan]])
    with pytest.raises(ValueError, match="level is 95"):
        metrics.interval(np.arange(3), level=95)


def test_intervals_equal_scipys_bootstrap():
    values = np.random.default_rng(3).exponential(size=50)
    for statistic in (np.mean, np.median):
        theirs = stats.bootstrap(
            (values,), statistic, n_resamples=20_000, method="percentile", rng=0, vectorized=True
        ).confidence_interval
        ours = metrics.bootstrap_interval(statistic, values, resamples=5000)
        np.testing.assert_allclose(ours, theirs, atol=0.03)
    # Of sums: the mean is a sum of values over a sum of ones.
    pairs = np.stack([values, np.ones(50)], axis=1)
    by_sums = metrics.bootstrap_sums(lambda s: s[:, 0] / s[:, 1], pairs, resamples=5000)
    by_values = metrics.bootstrap_interval(np.mean, values, resamples=5000)
    np.testing.assert_allclose(by_sums, by_values, rtol=1e-12)


def confusions(images=30, seed=0, right=0.8):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (images, 12, 12))
    predicted = np.where(rng.random(truth.shape) < right, truth, 0)
    return np.asarray(metrics.confusion_matrices(truth, predicted, 3))


def test_intervals_of_confusion_metrics_come_from_resampled_images():
    counts = confusions()
    found = metrics.bootstrap_sums(metrics.mean_iou, counts, resamples=300, seed=5)
    looped = metrics.bootstrap_interval(
        lambda drawn: metrics.mean_iou(drawn.sum(0)), counts, resamples=300, seed=5
    )
    np.testing.assert_allclose(found, looped, rtol=1e-12)
    assert found[0] < metrics.mean_iou(counts.sum(0)) < found[1]
    # Per class too, and the same seed gives the same.
    per_class = metrics.bootstrap_sums(metrics.iou, counts, resamples=300)
    assert per_class.shape == (2, 3) and (per_class[0] < per_class[1]).all()
    again = metrics.bootstrap_sums(metrics.iou, counts, resamples=300)
    assert np.array_equal(per_class, again)
    assert not np.array_equal(per_class, metrics.bootstrap_sums(metrics.iou, counts, 300, seed=1))


def test_intervals_equal_scipys_on_the_same_draws():
    # SciPy draws indices by `rng.integers(0, n, (batch, n))`; with batches of one resample these
    # are the draws of `bootstrap_interval`.
    values = np.random.default_rng(4).exponential(size=40)
    for statistic, level in ((np.mean, 0.95), (np.median, 0.9)):
        theirs = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=400,
            batch=1,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(8),
        ).confidence_interval
        ours = metrics.bootstrap_interval(
            statistic, values, resamples=400, level=level, seed=np.random.default_rng(8)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_generator_moves_on():
    rng = np.random.default_rng(2)
    first, second = (metrics.bootstrap_interval(np.mean, [1, 2, 4, 8], seed=rng) for _ in range(2))
    assert first.tolist() == metrics.bootstrap_interval(np.mean, [1, 2, 4, 8], seed=2).tolist()
    assert first.tolist() != second.tolist()


def test_draws_count_as_many_images_as_there_are():
    drawn = statistics.draw_images(7, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 7) and (drawn.sum(1) == 7).all()
    # An image is missing from a resample with probability (1 - 1/7)^7.
    assert (drawn == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.03)


def test_sums_of_drawn_images_by_hand():
    per_image = [[1, 10], [2, 20], [4, 40]]
    drawn = np.array([[3, 0, 0], [0, 1, 2], [1, 1, 1]])
    found = statistics.sum_drawn(per_image, drawn)
    assert found.dtype == np.float64 and found.tolist() == [[3, 30], [10, 100], [7, 70]]
    assert statistics.sum_drawn([1, 2, 4], drawn[1]) == 10


def test_resampled_sums_draw_as_many_images():
    sums = metrics.resampled_sums(np.ones((17, 2)), resamples=50)
    assert np.array_equal(sums, np.full((50, 2), 17.0))
    none = metrics.resampled_sums(np.zeros((0, 3, 3)), resamples=4)
    assert np.array_equal(none, np.zeros((4, 3, 3)))
    assert metrics.resampled_sums([2, 2, 2], resamples=5).tolist() == [6] * 5
    assert np.isnan(metrics.bootstrap_sums(metrics.mean_iou, np.zeros((0, 3, 3)))).all()


def test_difference_of_two_runs_is_paired():
    better, worse = confusions(right=0.82), confusions(right=0.80)
    low, high = metrics.bootstrap_sums_difference(metrics.mean_iou, better, worse)
    difference = metrics.mean_iou(better.sum(0)) - metrics.mean_iou(worse.sum(0))
    assert 0 < low < difference < high
    same = metrics.bootstrap_sums_difference(metrics.mean_iou, better, better)
    assert same.tolist() == [0, 0]
    with pytest.raises(ValueError, match="30 and 29 images"):
        metrics.bootstrap_sums_difference(metrics.mean_iou, better, worse[1:])


def test_interval_of_a_statistic_of_two_arrays():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    scores = rng.random((90, 3)) + (labels[:, None] == np.arange(3))
    probabilities = scores / scores.sum(1, keepdims=True)
    value = metrics.macro_auroc(labels, probabilities)
    low, high = metrics.bootstrap_interval(
        metrics.macro_auroc, labels, probabilities, resamples=200
    )
    assert low < value < high <= 1
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        metrics.bootstrap_interval(np.mean, np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"lengths \[0\]"):
        metrics.bootstrap_interval(np.mean, np.ones(0))


def test_proportion():
    none = metrics.proportion(0, 0)
    assert np.isnan([none["value"], *none["interval"]]).all()
    low, high = metrics.proportion(50, 100)["interval"]
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    # Wilson's interval of 0 of n is [0, z² / (n + z²)].
    z = stats.norm.ppf(0.975)
    found = metrics.proportion(0, 10)
    assert found["value"] == 0
    assert found["interval"] == pytest.approx([0, z**2 / (10 + z**2)])
    for count, total in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match=f"count is {count} of {total}"):
            metrics.proportion(count, total)
