"""wbc_jax.metrics.classification: hand-computed cases, paper B's figures, and scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import calibration
from sklearn import metrics as oracle

from wbc_jax import metrics

# Truth 0: two right, one called 1; truth 1: three right; truth 2: one right, one 0, two 1.
COUNTS = np.array([[2, 1, 0], [0, 3, 0], [1, 2, 1]])
# Paper B's Fig. 7 (basophil, eosinophil, lymphocyte, monocyte, neutrophil).
FIG_7 = np.array(
    [
        [426, 0, 9, 2, 1],
        [0, 1195, 2, 1, 16],
        [6, 6, 1643, 34, 10],
        [1, 2, 27, 637, 8],
        [2, 55, 7, 15, 4176],
    ]
)
# Paper B prints no matrix for Table 5 that can be read: this is one with its TP, FP and supports.
TABLE_5 = np.array(
    [
        [46, 0, 7, 0, 0],
        [0, 66, 0, 0, 6],
        [0, 0, 68, 2, 1],
        [0, 0, 6, 46, 0],
        [0, 0, 0, 0, 75],
    ]
)


def random_answers(n=60, classes=4, seed=0, tenths=False):
    """Labels and probabilities; `tenths`: of 0, 0.1 … 1 only, so with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * (labels[:, None] == np.arange(classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if tenths:
        probabilities = rng.multinomial(10, probabilities) / 10
    return labels, probabilities


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (metrics.precision, [2 / 3, 1 / 2, 1]),
        (metrics.recall, [2 / 3, 1, 1 / 4]),
        (metrics.specificity, [6 / 7, 4 / 7, 1]),
        (metrics.f1, [2 / 3, 2 / 3, 2 / 5]),
        (metrics.one_vs_rest_accuracy, [8 / 10, 7 / 10, 7 / 10]),
        (metrics.balanced_accuracy, [16 / 21, 11 / 14, 5 / 8]),
        (metrics.global_accuracy, 6 / 10),
        (metrics.macro_precision, 13 / 18),
        (metrics.macro_recall, 23 / 36),
        (metrics.macro_f1, 26 / 45),
        (metrics.mean_one_vs_rest_accuracy, 22 / 30),
        (metrics.mean_balanced_accuracy, (16 / 21 + 11 / 14 + 5 / 8) / 3),
        (metrics.pooled_precision, 6 / 10),
        (metrics.pooled_recall, 6 / 10),
        (metrics.pooled_f1, 6 / 10),
        (metrics.pooled_specificity, 16 / 20),
    ],
)
def test_hand_computed_scores(score, expected):
    np.testing.assert_allclose(score(COUNTS), expected, rtol=1e-15)
    # Leading axes are those of resamples: each gets its own score.
    resamples = np.stack([COUNTS, 3 * COUNTS, np.zeros((3, 3), int)])
    found = score(resamples)
    np.testing.assert_allclose(found[:2], [expected] * 2, rtol=1e-15)
    assert np.isnan(found[2]).all()


def test_absent_classes_are_nan_and_left_out_of_means():
    # Class 1 is only predicted, class 2 is nowhere.
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    nan = np.nan
    np.testing.assert_array_equal(metrics.precision(counts), [1, 0, nan])
    np.testing.assert_array_equal(metrics.recall(counts), [3 / 4, nan, nan])
    np.testing.assert_array_equal(metrics.specificity(counts), [nan, 3 / 4, 1])
    np.testing.assert_array_equal(metrics.f1(counts), [6 / 7, 0, nan])
    np.testing.assert_array_equal(metrics.one_vs_rest_accuracy(counts), [3 / 4, 3 / 4, nan])
    np.testing.assert_array_equal(metrics.balanced_accuracy(counts), [nan, nan, nan])
    assert metrics.macro_recall(counts) == metrics.mean_one_vs_rest_accuracy(counts) == 3 / 4
    assert metrics.macro_precision(counts) == 1 / 2 and metrics.macro_f1(counts) == 3 / 7
    assert np.isnan(metrics.mean_balanced_accuracy(counts))


def test_a_class_that_is_never_predicted_does_not_raise_the_mean_precision():
    # All of 8, 1 and 1 cells are taken for class 0; class 3 is nowhere.
    counts = np.array([[8, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert metrics.macro_precision(counts) == 0.8
    assert metrics.macro_precision(counts, absent_as_zero=True) == pytest.approx(0.8 / 3)
    truth = np.repeat([0, 1, 2], [8, 1, 1])
    theirs = oracle.precision_score(truth, truth * 0, average="macro", zero_division=0)
    assert metrics.macro_precision(counts, absent_as_zero=True) == pytest.approx(theirs)
    both = metrics.macro_precision(np.stack([counts, np.eye(4)]), absent_as_zero=True)
    np.testing.assert_allclose(both, [0.8 / 3, 1])


def test_paper_b_table_4_follows_from_its_figure_7():
    printed = {
        metrics.precision: [0.9793, 0.9499, 0.9733, 0.9245, 0.9917],
        metrics.recall: [0.9726, 0.9843, 0.9670, 0.9437, 0.9814],
        metrics.specificity: [0.9988, 0.9911, 0.9933, 0.9932, 0.9913],
        metrics.f1: [0.9759, 0.9668, 0.9702, 0.9340, 0.9865],
        metrics.one_vs_rest_accuracy: [0.9974, 0.9900, 0.9871, 0.9891, 0.9862],
    }
    # The paper rounds some numbers and cuts others off, so a unit of the last digit is agreement.
    # Two cells do not follow: the matrix gives lymphocytes a specificity of 6537/6582 = 0.9932 and
    # an accuracy of 8180/8281 = 0.9878.
    off = {
        (score.__name__, k)
        for score, values in printed.items()
        for k in np.flatnonzero(np.abs(score(FIG_7) - values) >= 1e-4)
    }
    assert off == {("specificity", 2), ("one_vs_rest_accuracy", 2)}
    assert FIG_7.sum() == 8281
    # None of the three is the 98.03 % that the paper calls balanced accuracy.
    assert round(100 * float(metrics.global_accuracy(FIG_7)), 2) == 97.54
    assert round(100 * float(metrics.mean_balanced_accuracy(FIG_7)), 2) == 98.17
    assert round(100 * float(metrics.mean_one_vs_rest_accuracy(FIG_7)), 2) == 99.01


def test_paper_b_table_5_follows_from_its_counts():
    assert np.diag(TABLE_5).tolist() == [46, 66, 68, 46, 75]
    assert (TABLE_5.sum(0) - np.diag(TABLE_5)).tolist() == [0, 0, 13, 2, 7]
    assert TABLE_5.sum(1).tolist() == [53, 72, 71, 52, 75]
    assert metrics.global_accuracy(TABLE_5) == 301 / 323
    assert round(100 * 301 / 323, 2) == 93.19
    assert round(100 * float(metrics.macro_recall(TABLE_5)), 2) == 92.54
    # The 97.27 % that the paper calls balanced accuracy: 1 − 2 · 22 / (5 · 323) = 97.2755 %.
    mean = float(metrics.mean_one_vs_rest_accuracy(TABLE_5))
    np.testing.assert_allclose(mean, 1 - 44 / (5 * 323), rtol=1e-15)
    assert int(1e4 * mean) == 9727


@pytest.mark.parametrize("seed", range(3))
def test_counted_scores_equal_scikit_learn(seed):
    labels, probabilities = random_answers(seed=seed)
    predictions = probabilities.argmax(1)
    counts = metrics.confusion_from_labels(labels, predictions, 4)
    assert np.array_equal(counts, oracle.confusion_matrix(labels, predictions))
    answers = (labels, predictions)
    one_vs_rest = oracle.multilabel_confusion_matrix(*answers)
    for ours, theirs in [
        (metrics.precision(counts), oracle.precision_score(*answers, average=None)),
        (metrics.f1(counts), oracle.f1_score(*answers, average=None)),
        (metrics.macro_precision(counts), oracle.precision_score(*answers, average="macro")),
        (metrics.macro_recall(counts), oracle.recall_score(*answers, average="macro")),
        (metrics.macro_recall(counts), oracle.balanced_accuracy_score(*answers)),
        (metrics.macro_f1(counts), oracle.f1_score(*answers, average="macro")),
        (metrics.pooled_precision(counts), oracle.precision_score(*answers, average="micro")),
        (metrics.pooled_recall(counts), oracle.recall_score(*answers, average="micro")),
        (metrics.pooled_f1(counts), oracle.f1_score(*answers, average="micro")),
        (metrics.global_accuracy(counts), oracle.accuracy_score(*answers)),
        (metrics.specificity(counts), one_vs_rest[:, 0, 0] / one_vs_rest[:, 0].sum(-1)),
        (
            metrics.one_vs_rest_accuracy(counts),
            [oracle.accuracy_score(labels == k, predictions == k) for k in range(4)],
        ),
        (
            metrics.balanced_accuracy(counts),
            [oracle.balanced_accuracy_score(labels == k, predictions == k) for k in range(4)],
        ),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_counts_of_labels():
    counts = metrics.confusion_from_labels([0, 0, 1, -1, 2], [0, 1, 1, 2, 0], 3)
    assert counts.dtype == np.int64
    # The cell of unknown type (-1) counts nowhere.
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    none = np.zeros(0, int)
    assert metrics.confusion_from_labels(none, none, 2).tolist() == [[0, 0], [0, 0]]


def test_counts_under_jit_are_those_of_the_host():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(-1, 3, (2, 5, 40)), rng.integers(0, 3, (2, 5, 40))
    found = jax.jit(lambda t, p: metrics.label_confusions(t, p, 3))(labels, predictions)
    assert found.dtype == np.int32 and found.shape == (2, 5, 3, 3)
    for index in np.ndindex(2, 5):
        whole = metrics.confusion_from_labels(labels[index], predictions[index], 3)
        assert np.array_equal(found[index], whole)


def test_auroc_by_hand():
    # Class 1 against class 0: of the 2 x 2 pairs two are won, one is a tie and one is lost.
    labels = [0, 1, 0, 1]
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    np.testing.assert_array_equal(metrics.auroc(labels, probabilities), [3.5 / 4, 3.5 / 4])
    probabilities[1] = [0.95, 0.05]
    np.testing.assert_array_equal(metrics.auroc(labels, probabilities), [1 / 2, 1 / 2])


@pytest.mark.parametrize("tenths", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_equals_scikit_learn(seed, tenths):
    labels, probabilities = random_answers(seed=seed, tenths=tenths)
    found = metrics.auroc(labels, probabilities)
    for k in range(4):
        theirs = oracle.roc_auc_score(labels == k, probabilities[:, k])
        np.testing.assert_allclose(found[k], theirs, rtol=1e-12)
    np.testing.assert_allclose(metrics.macro_auroc(labels, probabilities), found.mean())


def test_auroc_without_a_class_is_nan_and_left_out_of_the_mean():
    labels, probabilities = random_answers()
    labels[labels == 2] = -1
    found = metrics.auroc(labels, probabilities)
    assert np.isnan(found).tolist() == [False, False, True, False]
    np.testing.assert_allclose(
        metrics.macro_auroc(labels, probabilities), found[[0, 1, 3]].mean(), rtol=1e-15
    )
    kept = labels >= 0
    np.testing.assert_array_equal(found, metrics.auroc(labels[kept], probabilities[kept]))
    assert np.isnan(metrics.auroc([1, 1], [[0.5, 0.5], [0.1, 0.9]])).all()
    assert np.isnan(metrics.macro_auroc(np.zeros(0, int), np.zeros((0, 3))))


def test_calibration_error_by_hand():
    # Two bins. Up to 0.5: one cell at 0.5, wrong. Above: 0.6 right, 0.8 right, 1.0 wrong.
    labels = [1, 0, 1, 0]
    probabilities = np.array([[0.5, 0.5], [0.6, 0.4], [0.2, 0.8], [0.0, 1.0]])
    expected = (1 / 4) * 0.5 + (3 / 4) * abs(2 / 3 - 0.8)
    found = metrics.expected_calibration_error(labels, probabilities, bins=2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # One bin: share right against mean confidence.
    found = metrics.expected_calibration_error(labels, probabilities, bins=1)
    np.testing.assert_allclose(found, abs(2 / 4 - 2.9 / 4), rtol=1e-12)
    assert metrics.expected_calibration_error([0, 1], [[1, 0], [0, 1]]) == 0
    assert metrics.expected_calibration_error([1, 0], [[1, 0], [0, 1]]) == 1
    assert np.isnan(metrics.expected_calibration_error(np.zeros(0, int), np.zeros((0, 3))))


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("tenths", [False, True])  # tenths: confidences on the edges of bins
def test_calibration_error_equals_scikit_learn(bins, tenths):
    labels, probabilities = random_answers(n=400, tenths=tenths)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    shares, means = calibration.calibration_curve(right, confidence, n_bins=bins)
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    sizes = np.unique(which, return_counts=True)[1]
    np.testing.assert_allclose(
        metrics.expected_calibration_error(labels, probabilities, bins),
        (sizes * np.abs(shares - means)).sum() / 400,
        rtol=1e-10,
    )


def test_brier_score():
    assert metrics.brier_score([0, 1], [[1, 0], [0, 1]]) == 0
    assert metrics.brier_score([1, 0], [[1, 0], [0, 1]]) == 2
    np.testing.assert_allclose(metrics.brier_score([2], [[0.2, 0.3, 0.5]]), 0.04 + 0.09 + 0.25)
    labels, probabilities = random_answers()
    theirs = oracle.brier_score_loss(labels, probabilities, scale_by_half=False)
    np.testing.assert_allclose(metrics.brier_score(labels, probabilities), theirs, rtol=1e-12)
    assert np.isnan(metrics.brier_score([-1], [[0.5, 0.5]]))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"labels are \(2,\) and predictions \(3,\).*\[N\]"):
        metrics.confusion_from_labels([0, 1], [0, 1, 1], 2)
    with pytest.raises(ValueError, match=r"predictions hold classes 0 to 2; .* must be 0 to 1"):
        metrics.confusion_from_labels([0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match=r"labels hold classes -2 to 1"):
        metrics.confusion_from_labels([-2, 1], [0, 1], 2)
    with pytest.raises(ValueError, match=r"labels hold classes 0 to 3; .* must be 0 to 1"):
        metrics.auroc([0, 3], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"labels are \(1,\) and probabilities \(2, 2\)"):
        metrics.auroc([0], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="hold NaN in 1 of 2 rows"):
        metrics.auroc([0, 1], [[0.5, 0.5], [np.nan, 0.5]])
    for score in (metrics.expected_calibration_error, metrics.brier_score):
        with pytest.raises(ValueError, match="Apply softmax to logits"):
            score([0, 1], [[2.5, -0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.expected_calibration_error([0], [[0.5, 0.5]], bins=0)
