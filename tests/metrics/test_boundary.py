"""wbc_jax.metrics.boundary: against SciPy's distance transform, MONAI and surface-distance."""

import math
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from helpers import tiny_runs
from helpers.drawn_masks import cell, distances, each, one_hot, pairs, square
from wbc_jax import metrics
from wbc_jax.metrics import boundary

SIZES = [(120, 120), (256, 256), (360, 360), (575, 575), (97, 250), (1, 40)]


def bf_oracle(truth, prediction, label, tolerance):
    found = distances(truth, prediction, label)
    if found is None:
        return np.nan
    recall, precision = ((d < tolerance).mean() for d in found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("size", SIZES)
def test_bf_score_equals_the_distance_transform(size):
    truth, prediction = pairs(*size)
    expected = each(bf_oracle, truth, prediction, 0.0075 * math.hypot(*size))
    found = metrics.bf_score(truth, prediction, 3)
    assert found.dtype == np.float64 and found.shape == (len(truth), 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    # The cases are what they are meant to be: scores between, at 0, at 1 and not there at all.
    assert np.isnan(found).any() and (found == 1).any()
    assert min(size) == 1 or ((found == 0).any() and ((found > 0) & (found < 1)).any())


@pytest.mark.parametrize("tolerance_px", [0, 1, math.sqrt(5), 11.7, 1e9])
def test_bf_score_equals_the_distance_transform_at_any_tolerance(tolerance_px):
    truth, prediction = pairs(40, 30)
    expected = each(bf_oracle, truth, prediction, tolerance_px)
    found = metrics.bf_score(truth, prediction, 3, tolerance_px=tolerance_px)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [1, 4, 9])
def test_bf_score_of_any_number_of_classes(classes):
    rng = np.random.default_rng(classes)
    truth, prediction = rng.integers(0, classes, (2, 2, 40, 35))
    truth[:, :3] = 255
    expected = each(bf_oracle, truth, prediction, 1.2, classes=classes)
    found = metrics.bf_score(truth, prediction, classes, tolerance_px=1.2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.data
def test_bf_score_equals_the_distance_transform_on_expert_masks(real_data):
    paths = sorted((real_data / "segmentation_WBC" / "Dataset 1").glob("*.png"))[:12]
    grey = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])
    truth = np.digitize(grey, (64, 192)).astype(np.uint8)
    assert truth.shape == (12, 120, 120) and set(np.unique(truth)) == {0, 1, 2}
    prediction = np.roll(truth, (1, 2), axis=(1, 2))
    expected = each(bf_oracle, truth, prediction, 0.0075 * math.hypot(120, 120))
    assert (expected < 1).any()
    np.testing.assert_allclose(metrics.bf_score(truth, prediction, 3), expected, atol=1e-12)


def test_bf_score_by_hand():
    # 36 boundary points each. Moved by 3 columns, the two edges along the rows keep 7 of 10 points
    # each, and 2 more have one beside them; of the 16 others the two sides' are at distance 3.
    counts = metrics.bf_counts(square(10, 10), square(10, 13), 2, tolerance_px=1.5)[0, 1]
    assert counts.tolist() == [18, 36, 18, 36]
    assert metrics.bf_score(square(10, 10), square(10, 13), 2, tolerance_px=1.5)[0, 1] == 0.5
    # A square in a square: of 36 inner and 68 outer points none is nearer than 4.
    inner, outer = square(14, 14), square(10, 10, side=18)
    assert metrics.bf_counts(inner, outer, 2, tolerance_px=4)[0, 1].tolist() == [0, 36, 0, 68]
    # Just above, all inner points match, and the outer ones beside them.
    counts = metrics.bf_counts(inner, outer, 2, tolerance_px=4.01)
    assert counts[0, 1].tolist() == [36, 36, 40, 68]
    expected = 2 * (40 / 68) / (1 + 40 / 68)
    np.testing.assert_allclose(metrics.bf_from_counts(counts)[0, 1], expected, rtol=1e-15)


def test_the_frame_is_boundary():
    full = np.ones((1, 7, 5), np.uint8)
    assert metrics.bf_counts(full, full, 2)[0, 1].tolist() == [20] * 4


def test_matches_are_strictly_nearer_than_the_tolerance():
    truth, prediction = np.zeros((2, 1, 9, 9), np.uint8)
    truth[0, 2, 2] = prediction[0, 5, 6] = 1  # 3 rows and 4 columns apart: 5
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=5)[0, 1] == 0
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=np.nextafter(5, 6))[0, 1] == 1


def test_tolerance_is_a_share_of_the_diagonal():
    np.testing.assert_allclose(boundary.tolerance(360, 360), 3.818, atol=5e-4)
    np.testing.assert_allclose(boundary.tolerance(256, 256), 2.715, atol=5e-4)
    truth, prediction = np.zeros((2, 1, 30, 40), np.uint8)
    truth[0, 10, 10] = prediction[0, 10, 15] = 1
    assert metrics.bf_score(truth, prediction, 2, tolerance_ratio=5 / 50)[0, 1] == 0
    assert metrics.bf_score(truth, prediction, 2, tolerance_ratio=5.01 / 50)[0, 1] == 1


def test_unknown_pixels_are_like_the_outside_of_the_image():
    truth, prediction = square(10, 10), square(11, 12)
    around = np.full((1, 60, 64), 255, np.uint8)
    around[:, 9:49, 15:55] = truth
    anything = np.random.default_rng(0).integers(0, 2, around.shape).astype(np.uint8)
    anything[:, 9:49, 15:55] = prediction
    expected = metrics.bf_counts(truth, prediction, 2, tolerance_px=1.5)
    assert np.array_equal(metrics.bf_counts(around, anything, 2, tolerance_px=1.5), expected)
    # Images that pad a batch have no score.
    nothing = np.full((1, 40, 40), 255, np.uint8)
    assert np.isnan(metrics.bf_score(nothing, prediction, 2)).all()


def absences():
    """Class 1 in truth only, class 2 in both and alike, class 3 in neither, class 0 alike."""
    truth, prediction = np.zeros((2, 2, 20, 20), np.uint8)
    truth[0, 2:5, 2:5] = 1
    truth[0, 10:14, 10:14] = prediction[0, 10:14, 10:14] = 2
    return truth, prediction


def test_absence_is_nan_and_counted():
    truth, prediction = absences()
    scores = metrics.bf_score(truth, prediction, 4, tolerance_px=1)
    background = bf_oracle(truth[0], prediction[0], 0, 1)
    assert 0 < background < 1
    nan = np.nan
    np.testing.assert_allclose(scores, [[background, nan, 1, nan], [1, nan, nan, nan]])
    counts = metrics.bf_counts(truth, prediction, 4, tolerance_px=1)
    totals = metrics.BFTotals.from_counts(counts)
    assert totals.one_sided.tolist() == [0, 1, 0, 0]
    assert totals.one_sided_images == 1
    assert totals.class_images.tolist() == [2, 0, 1, 0]
    np.testing.assert_allclose(totals.class_means, [(background + 1) / 2, nan, 1, nan])
    np.testing.assert_allclose(totals.class_means_absent_as_zero, [(background + 1) / 2, 0, 1, nan])
    # Per image the mean over classes, then over images.
    np.testing.assert_allclose(totals.mean, ((background + 1) / 2 + 1) / 2)
    np.testing.assert_allclose(totals.mean_absent_as_zero, ((background + 0 + 1) / 3 + 1) / 2)


def test_a_network_that_predicts_nothing_is_told_apart():
    truth = np.stack([cell(60, 60)] * 3)
    counts = metrics.bf_counts(truth, np.zeros_like(truth), 3)
    totals = metrics.BFTotals.from_counts(counts)
    assert totals.one_sided.tolist() == [0, 3, 3]
    assert np.isnan(totals.class_means[1:]).all()
    assert totals.class_means_absent_as_zero[1:].tolist() == [0, 0]
    np.testing.assert_allclose(totals.mean_absent_as_zero, totals.mean / 3)


def test_totals_of_parts_add_up():
    counts = metrics.bf_counts(*pairs(40, 30), 3)
    whole = metrics.BFTotals.from_counts(counts)
    parts = [metrics.BFTotals.from_counts(counts[i : i + 5]) for i in range(0, len(counts), 5)]
    added = parts[0] + parts[1] + parts[2]
    for field in (
        "class_images",
        "one_sided",
        "one_sided_images",
        "images",
        "images_absent_as_zero",
    ):
        assert np.array_equal(getattr(added, field), getattr(whole, field))
    scores = metrics.bf_from_counts(counts)
    np.testing.assert_allclose(added.class_means, np.nanmean(scores, 0), rtol=1e-12)
    means = [row[~np.isnan(row)].mean() for row in scores if not np.isnan(row).all()]
    np.testing.assert_allclose(added.mean, np.mean(means), rtol=1e-12)
    np.testing.assert_allclose(whole.mean, np.mean(means), rtol=1e-12)
    # Nothing is the neutral element, and has no mean.
    none = metrics.BFTotals.from_counts(counts[:0])
    assert np.isnan(none.mean) and np.isnan(none.class_means).all()
    assert (whole + none).mean == whole.mean


def test_under_jit_and_sharded_over_devices():
    code = f"""
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})
from helpers.drawn_masks import pairs
from wbc_jax import metrics
from wbc_jax.metrics import boundary, distances
assert jax.device_count() == 4
truth, prediction = (masks[1:9] for masks in pairs(65, 50))
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
on_devices = [jax.device_put(m, sharding) for m in (truth, prediction)]
counts = jax.jit(lambda t, p: boundary.boundary_matches(t, p, 3, 2.5))(*on_devices)
assert len(counts.sharding.device_set) == 4 and not counts.is_fully_replicated
assert np.array_equal(counts, metrics.bf_counts(truth, prediction, 3, tolerance_px=2.5))
far = distances.boundary_distances(*on_devices, 3, 512)
assert len(far.sharding.device_set) == 4
assert np.array_equal(far, distances.boundary_distances(truth, prediction, 3, 512))
"""
    environment = os.environ | tiny_runs.devices(4)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_large_sets_are_worked_on_in_parts(monkeypatch):
    truth, prediction = pairs(40, 30)
    counts = metrics.bf_counts(truth, prediction, 3)
    average = metrics.surface_distances(truth, prediction, 3).average_px
    monkeypatch.setattr(boundary, "_CALL_PX", 12 * 40 * 30)
    monkeypatch.setattr(metrics.distances, "_CALL_PX", 12 * 40 * 30)
    twice = [np.concatenate([masks, masks]) for masks in (truth, prediction)]
    assert np.array_equal(metrics.bf_counts(*twice, 3), np.concatenate([counts, counts]))
    found = metrics.surface_distances(*twice, 3).average_px
    np.testing.assert_array_equal(found, np.concatenate([average, average]))


def test_no_images():
    none = np.zeros((0, 8, 8), np.uint8)
    assert metrics.bf_score(none, none, 3).shape == (0, 3)
    assert metrics.surface_distances(none, none, 3).average_px.shape == (0, 3)


def test_any_integer_type_will_do():
    truth, prediction = pairs(40, 30)
    expected = metrics.bf_score(truth, prediction, 3)
    for dtype in (np.int32, np.int64):
        found = metrics.bf_score(truth.astype(dtype), prediction.astype(dtype), 3)
        np.testing.assert_array_equal(found, expected)
    two = (truth == 2, prediction == 2)  # without the last: "not 2" is more than "not known"
    assert np.array_equal(metrics.bf_score(*two, 2)[:-1, 1], expected[:-1, 2], equal_nan=True)


def test_bad_input_is_refused():
    mask = np.zeros((1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"both must be \[N, H, W\]"):
        metrics.bf_score(mask, mask[0], 3)
    with pytest.raises(ValueError, match="prediction holds classes 0 to 3; num_classes is 3"):
        metrics.bf_score(mask, mask + np.eye(8, dtype=int) * 3, 3)
    with pytest.raises(ValueError, match=r"truth is of float64; .* argmax"):
        metrics.bf_score(mask / 2, mask, 3)
    with pytest.raises(ValueError, match="tolerance is -1 pixels"):
        metrics.bf_score(mask, mask, 3, tolerance_px=-1)
    with pytest.raises(ValueError, match="tolerance is nan pixels"):
        metrics.bf_score(mask, mask, 3, tolerance_ratio=np.nan)


def surface_dice(truth, prediction, tolerance_px, classes=2, **options):
    monai = pytest.importorskip("monai.metrics")
    thresholds = [tolerance_px] * (classes if options.get("include_background") else classes - 1)
    return monai.compute_surface_dice(
        one_hot(prediction, classes), one_hot(truth, classes), thresholds, **options
    ).numpy()


def test_monai_surface_dice_coincides_where_precision_is_recall():
    truth, prediction = square(10, 10), square(10, 13)
    assert surface_dice(truth, prediction, 1.5) == 0.5
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=1.5)[0, 1] == 0.5
    # The background too, once MONAI is asked for it: its boundary is the frame and the hole.
    ours = metrics.bf_score(truth, prediction, 2, tolerance_px=1.5)
    theirs = surface_dice(truth, prediction, 1.5, include_background=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_monai_surface_dice_differs_at_the_tolerance_in_pooling_and_in_absence():
    # A distance that equals the tolerance matches there, not here.
    truth, prediction = square(10, 10), square(10, 13)
    assert surface_dice(truth, prediction, 3) == 1
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=3)[0, 1] == 22 / 36
    # Precision 40/68 and recall 36/36: pooled there, their harmonic mean here.
    inner, outer = square(14, 14), square(10, 10, side=18)
    np.testing.assert_allclose(surface_dice(inner, outer, 4.01), 76 / 104, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.bf_score(inner, outer, 2, tolerance_px=4.01)[0, 1], 2 * 40 / 108, rtol=1e-12
    )
    # Absent on one side: 0 there, NaN here.
    assert surface_dice(inner, np.zeros_like(inner), 4.01) == 0
    assert np.isnan(metrics.bf_score(inner, np.zeros_like(inner), 2, tolerance_px=4.01)[0, 1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surface_distance_coincides_and_differs():
    peer = pytest.importorskip("surface_distance")

    def theirs(truth, prediction):
        return peer.compute_surface_distances(truth[0] == 1, prediction[0] == 1, (1, 1))

    truth, prediction = square(10, 10), square(10, 13)
    found = theirs(truth, prediction)
    ours = metrics.surface_distances(truth, prediction, 2)
    assert peer.compute_surface_dice_at_tolerance(found, 1.5) == 0.5
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=1.5)[0, 1] == 0.5
    assert peer.compute_robust_hausdorff(found, 95) == ours.hausdorff_95_px[0, 1] == 3
    assert peer.compute_average_surface_distance(found) == (1.5, 1.5)
    assert ours.average_px[0, 1] == 1.5
    # It matches at the tolerance, and measures contours by length: a side of 10 pixels is 10 long,
    # so that two concentric squares 2 apart are 2 apart but for the corners.
    assert peer.compute_surface_dice_at_tolerance(found, 3) == 1
    assert metrics.bf_score(truth, prediction, 2, tolerance_px=3)[0, 1] == 22 / 36
    inner, outer = square(10, 10), square(8, 8, side=14)
    back, forth = peer.compute_average_surface_distance(theirs(inner, outer))
    average = metrics.surface_distances(inner, outer, 2).average_px[0, 1]
    np.testing.assert_allclose((back, forth, average), (2, 2.0772, 2.0591), atol=1e-4)
