"""wbc_jax.metrics.confusion: hand-drawn masks and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from wbc_jax import metrics
from wbc_jax.metrics import confusion

# Seven pixels count, the 255 does not.
TRUTH = np.array([[[0, 0, 1, 1], [2, 2, 2, 255]]], np.uint8)
PREDICTION = np.array([[[0, 1, 1, 1], [2, 2, 0, 0]]], np.uint8)
COUNTS = np.array([[1, 1, 0], [0, 2, 0], [1, 0, 2]])


def random_masks(n=3, height=11, width=7, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (n, height, width)).astype(np.uint8)
    wrong = rng.integers(0, classes, truth.shape).astype(np.uint8)
    return truth, np.where(rng.random(truth.shape) < 0.6, truth, wrong)


def test_hand_drawn_counts():
    counts = metrics.confusion_matrix(TRUTH, PREDICTION, 3)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, COUNTS)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (metrics.iou, [1 / 3, 2 / 3, 2 / 3]),
        (metrics.dice, [1 / 2, 4 / 5, 4 / 5]),
        (metrics.recall, [1 / 2, 1, 2 / 3]),
        (metrics.global_accuracy, 5 / 7),
        (metrics.mean_accuracy, 13 / 18),
        (metrics.mean_iou, 5 / 9),
        (metrics.weighted_iou, 4 / 7),
    ],
)
def test_hand_drawn_scores(score, expected):
    np.testing.assert_allclose(score(COUNTS), expected, rtol=1e-15)
    # Leading axes are those of images: each gets its own score.
    np.testing.assert_allclose(score(np.stack([COUNTS, 3 * COUNTS])), [expected] * 2, rtol=1e-15)


def test_ignored_pixels_count_nowhere():
    everything = np.full((1, 2, 4), 255, np.uint8)
    counts = metrics.confusion_matrix(everything, PREDICTION, 3)
    assert np.array_equal(counts, np.zeros((3, 3)))
    for score in (metrics.global_accuracy, metrics.mean_iou, metrics.mean_accuracy):
        assert np.isnan(score(counts))
    assert np.isnan(metrics.iou(counts)).all() and np.isnan(metrics.weighted_iou(counts))


def test_absent_classes_are_nan_and_left_out_of_means():
    # Class 1 is nowhere; class 2 is predicted on one of four background pixels.
    counts = metrics.confusion_matrix(np.zeros((1, 2, 2), int), np.array([[[0, 0], [0, 2]]]), 3)
    np.testing.assert_array_equal(metrics.iou(counts), [3 / 4, np.nan, 0])
    np.testing.assert_array_equal(metrics.dice(counts), [6 / 7, np.nan, 0])
    np.testing.assert_array_equal(metrics.recall(counts), [3 / 4, np.nan, np.nan])
    # A class that is only predicted is wrong in the IoU, but has no recall.
    assert metrics.mean_iou(counts) == 3 / 8
    assert metrics.mean_accuracy(counts) == 3 / 4
    assert metrics.weighted_iou(counts) == 3 / 4


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn(seed):
    truth, prediction = random_masks(seed=seed)
    truth[:, 0] = 255
    kept = truth != 255
    t, p = truth[kept], prediction[kept]
    counts = metrics.confusion_matrix(truth, prediction, 3)
    assert np.array_equal(counts, oracle.confusion_matrix(t, p, labels=range(3)))
    for ours, theirs in [
        (metrics.iou(counts), oracle.jaccard_score(t, p, average=None)),
        (metrics.dice(counts), oracle.f1_score(t, p, average=None)),
        (metrics.recall(counts), oracle.recall_score(t, p, average=None)),
        (metrics.mean_iou(counts), oracle.jaccard_score(t, p, average="macro")),
        (metrics.weighted_iou(counts), oracle.jaccard_score(t, p, average="weighted")),
        (metrics.global_accuracy(counts), oracle.accuracy_score(t, p)),
        (metrics.mean_accuracy(counts), oracle.balanced_accuracy_score(t, p)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_each_image_is_counted_by_itself():
    truth, prediction = random_masks(n=5)
    each = np.asarray(metrics.confusion_matrices(truth, prediction, 3))
    assert each.dtype == np.int32
    for counts, t, p in zip(each, truth, prediction):
        assert np.array_equal(counts, oracle.confusion_matrix(t.ravel(), p.ravel()))


def test_sum_over_batches_is_the_whole():
    truth, prediction = random_masks(n=5)
    whole = metrics.confusion_matrix(truth, prediction, 3)
    batches = [slice(0, 2), slice(2, 4), slice(4, 5)]
    parts = [metrics.confusion_matrix(truth[b], prediction[b], 3) for b in batches]
    assert np.array_equal(whole, sum(parts))
    # Batches are filled up with images that are 255 all over: they add nothing.
    filled = np.concatenate([truth, np.full_like(truth, 255)])
    other = np.concatenate([prediction, np.zeros_like(prediction)])
    assert np.array_equal(whole, metrics.confusion_matrix(filled, other, 3))


def test_no_images_count_as_nothing():
    none = np.zeros((0, 4, 4), np.uint8)
    assert np.array_equal(metrics.confusion_matrix(none, none, 3), np.zeros((3, 3)))


def test_counts_are_exact_where_float32_is_not():
    # 2^24 + 1 is the first integer that float32 cannot hold.
    truth = np.ones((1, 2, 2**23 + 1), np.uint8)
    counts = metrics.confusion_matrix(truth, truth, 2)
    assert np.array_equal(counts, [[0, 0], [0, 2**24 + 2]])
    assert metrics.confusion_matrix(truth[..., :-1], truth[..., :-1], 2)[1, 1] == 2**24


def test_counts_of_a_large_set_are_those_of_its_parts(monkeypatch):
    truth, prediction = random_masks(n=5)
    whole = metrics.confusion_matrix(truth, prediction, 3)
    for pixels in (1, 2 * 11 * 7, 1000):
        monkeypatch.setattr(confusion, "_CALL_PX", pixels)
        assert np.array_equal(metrics.confusion_matrix(truth, prediction, 3), whole)


@pytest.mark.parametrize("classes", [2, 4, 9])
@pytest.mark.parametrize("size", [(1, 1), (31, 3)])
def test_any_number_of_classes_and_pixels(classes, size):
    truth, prediction = random_masks(2, *size, classes=classes)
    truth[0, 0, 0] = 255
    expected = oracle.confusion_matrix(
        truth[truth < 255], prediction[truth < 255], labels=range(classes)
    )
    assert np.array_equal(metrics.confusion_matrix(truth, prediction, classes), expected)


def test_any_integer_type_will_do():
    truth, prediction = random_masks()
    whole = metrics.confusion_matrix(truth, prediction, 3)
    for dtype in (np.int8, np.uint16, np.int32, np.int64):
        found = metrics.confusion_matrix(truth.astype(dtype), prediction.astype(dtype), 3)
        assert np.array_equal(found, whole)
    two = metrics.confusion_matrix(truth == 1, prediction == 1, 2)
    assert two[1].tolist() == [whole[1, [0, 2]].sum(), whole[1, 1]] and two.sum() == whole.sum()


def test_masks_must_be_of_integers():
    with pytest.raises(ValueError, match=r"prediction is of float32; .* argmax of probabilities"):
        metrics.confusion_matrix(TRUTH, PREDICTION.astype(np.float32), 3)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 4), (2, 2, 4)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match=r"truth is \(1, 2, 4\) and prediction .* \[N, H, W\]"):
        metrics.confusion_matrix(TRUTH, np.zeros(shape, np.uint8), 3)


def test_one_image_without_the_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"both must be \[N, H, W\]"):
        metrics.confusion_matrix(TRUTH[0], PREDICTION[0], 3)


def test_classes_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"truth holds classes 0 to 2; num_classes is 2"):
        metrics.confusion_matrix(TRUTH, np.zeros_like(TRUTH), 2)
    with pytest.raises(ValueError, match=r"prediction holds classes 0 to 255; num_classes is 3"):
        # 255 means "not known" in the truth; no model may answer it.
        metrics.confusion_matrix(PREDICTION, TRUTH, 3)
    with pytest.raises(ValueError, match=r"truth holds classes -1 to 0"):
        metrics.confusion_matrix(np.full((1, 1, 2), [-1, 0]), np.zeros((1, 1, 2), int), 3)
