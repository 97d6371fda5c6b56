"""wbc_jax.metrics.boundary: against loops over scipy's distance transform, MONAI and others."""

import math
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scipy import ndimage

from wbc_jax import metrics
from wbc_jax.metrics import boundary

SIZES = [(120, 120), (256, 256), (360, 360), (575, 575), (97, 250), (1, 40)]


def cell(height, width, shift=0.0, scale=1.0):
    """A round cell with an eccentric nucleus."""
    y, x = np.mgrid[:height, :width]
    y, x = (y - height / 2 - shift) / (scale * height), (x - width / 2 - shift) / (scale * width)
    mask = (np.hypot(y, x) < 0.35).astype(np.uint8)
    mask[np.hypot(y + 0.05, x) < 0.2 + 0.03 * np.cos(5 * np.arctan2(y, x))[...]] = 2
    return mask


def drawn(height, width):
    """Strokes, as of a hand."""
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    mask[np.abs(y - height / 2 - height / 4 * np.sin(9 * x / width)) < 1.5] = 1
    mask[(np.abs(y - x * height / width) < 4) & (x % 31 > 7)] = 2
    return mask


def frame(height, width):
    """Classes that touch all four sides."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 3] = 1
    mask[:, width // 2 :] = 2
    mask[-1:] = 1
    return mask


def one_pixel(height, width, y, x):
    mask = np.zeros((height, width), np.uint8)
    mask[int(y * (height - 1)), int(x * (width - 1))] = 2
    return mask


def pairs(height, width):
    """Truth and prediction `[N, H, W]`: random, drawn, empty, one pixel, on the frame, full."""
    rng = np.random.default_rng(0)
    size = (height, width)
    noise = rng.integers(0, 3, size).astype(np.uint8)
    unknown = cell(*size)
    unknown[height // 3 : height // 2, width // 4 :] = 255
    empty, full = np.zeros(size, np.uint8), np.full(size, 2, np.uint8)
    return tuple(
        np.stack(masks)
        for masks in zip(
            (noise, np.where(rng.random(size) < 0.9, noise, 0)),
            (cell(*size), cell(*size, shift=2.5)),
            (cell(*size), cell(*size, scale=0.8)),
            (drawn(*size), np.roll(drawn(*size), 3, axis=0)),
            (frame(*size), np.roll(frame(*size), 4, axis=1)),
            (one_pixel(*size, 0.5, 0.5), one_pixel(*size, 0.52, 0.5)),
            (one_pixel(*size, 0, 0), one_pixel(*size, 1, 1)),
            (empty, empty),
            (empty, cell(*size)),
            (full, full),
            (full, frame(*size)),
            (unknown, cell(*size, shift=-1.5)),
        )
    )


def boundaries(truth, prediction, label):
    """The definition, word by word: the mask without its erosion by a plus, zeros around it."""
    known = truth != 255
    for mask in ((truth == label) & known, (prediction == label) & known):
        yield mask & ~ndimage.binary_erosion(mask)


def distances(truth, prediction, label):
    """Distances of true points to the predicted boundary and back; None if one is absent."""
    true, predicted = boundaries(truth, prediction, label)
    if not true.any() or not predicted.any():
        return None
    to_predicted = ndimage.distance_transform_edt(~predicted)
    to_true = ndimage.distance_transform_edt(~true)
    return to_predicted[true], to_true[predicted]


def bf_oracle(truth, prediction, label, tolerance):
    found = distances(truth, prediction, label)
    if found is None:
        return np.nan
    recall, precision = ((d < tolerance).mean() for d in found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def each(oracle, truth, prediction, *arguments, classes=3):
    return np.array(
        [[oracle(t, p, c, *arguments) for c in range(classes)] for t, p in zip(truth, prediction)]
    )


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


def square(top, left, side=10, size=40):
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, top : top + side, left : left + side] = 1
    return mask


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
    # Images that fill up a batch have no score.
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
    for field in ("class_images", "one_sided", "images", "images_absent_as_zero"):
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


def distance_oracle(truth, prediction, label):
    found = distances(truth, prediction, label)
    if found is None:
        return np.nan, np.nan
    return max(np.percentile(d, 95) for d in found), np.concatenate(found).mean()


@pytest.mark.parametrize("size", [(120, 120), (250, 360), (1, 40)])
def test_surface_distances_equal_the_distance_transform(size):
    truth, prediction = pairs(*size)
    if max(size) > 200:  # noise has a hundred thousand boundary points, a cell has some hundred
        truth, prediction = truth[1:], prediction[1:]
    expected = each(distance_oracle, truth, prediction)
    found = metrics.surface_distances(truth, prediction, 3)
    np.testing.assert_allclose(found.hausdorff_95_px, expected[..., 0], rtol=1e-12)
    np.testing.assert_allclose(found.average_px, expected[..., 1], rtol=1e-12)
    assert np.isnan(found.average_px).any() and (found.average_px == 0).any()


def test_surface_distances_by_hand():
    # Points on one row at columns 0 and 10 against one at 4: 4 and 6, and back 4.
    truth, prediction = np.zeros((2, 1, 3, 12), np.uint8)
    truth[0, 1, [0, 10]] = prediction[0, 1, 4] = 1
    found = metrics.surface_distances(truth, prediction, 2)
    np.testing.assert_allclose(found.average_px[0, 1], (4 + 6 + 4) / 3)
    np.testing.assert_allclose(found.hausdorff_95_px[0, 1], 4 + 0.95 * 2)


def test_squared_distances_are_exact_integers():
    truth, prediction = square(10, 10), square(12, 13)
    found = np.asarray(boundary.boundary_distances(truth, prediction, 2, 64))
    assert found.dtype == np.int32 and found.shape == (1, 2, 2, 64)
    for direction, expected in enumerate(distances(truth[0], prediction[0], 1)):
        valid = found[0, 1, direction]
        assert sorted(valid[valid >= 0]) == sorted(np.rint(expected**2).astype(int))
    # Without a limit there is room for every pixel; with one, the background's points are cut off.
    unlimited = np.asarray(boundary.boundary_distances(truth, prediction, 2))
    assert unlimited.shape[-1] == 1600
    assert np.array_equal(unlimited[..., :64], found)
    assert (unlimited[:, 1, :, 64:] == -1).all()


def test_under_jit_and_sharded_over_devices():
    code = f"""
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_boundary import pairs
from wbc_jax import metrics
from wbc_jax.metrics import boundary
assert jax.device_count() == 4
truth, prediction = (masks[1:9] for masks in pairs(65, 50))
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
on_devices = [jax.device_put(m, sharding) for m in (truth, prediction)]
counts = jax.jit(lambda t, p: boundary.boundary_matches(t, p, 3, 2.5))(*on_devices)
assert len(counts.sharding.device_set) == 4 and not counts.is_fully_replicated
assert np.array_equal(counts, metrics.bf_counts(truth, prediction, 3, tolerance_px=2.5))
far = boundary.boundary_distances(*on_devices, 3, 512)
assert len(far.sharding.device_set) == 4
assert np.array_equal(far, boundary.boundary_distances(truth, prediction, 3, 512))
"""
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_large_sets_are_worked_on_in_parts(monkeypatch):
    truth, prediction = pairs(40, 30)
    counts = metrics.bf_counts(truth, prediction, 3)
    average = metrics.surface_distances(truth, prediction, 3).average_px
    monkeypatch.setattr(boundary, "_MATCH_PX", 12 * 40 * 30)
    monkeypatch.setattr(boundary, "_DISTANCE_PX", 12 * 40 * 30)
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


def one_hot(mask, classes):
    import torch

    return torch.from_numpy(np.eye(classes, dtype=np.uint8)[mask]).permute(0, 3, 1, 2)


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


def test_monai_distances_coincide_where_the_class_is_on_both_sides():
    monai = pytest.importorskip("monai.metrics")
    truth, prediction = pairs(120, 120)
    ours = metrics.surface_distances(truth, prediction, 3)
    both = one_hot(prediction[1:4], 3), one_hot(truth[1:4], 3)
    hausdorff = monai.compute_hausdorff_distance(*both, include_background=True, percentile=95)
    average = monai.compute_average_surface_distance(*both, include_background=True, symmetric=True)
    np.testing.assert_allclose(ours.hausdorff_95_px[1:4], hausdorff, rtol=1e-5)
    np.testing.assert_allclose(ours.average_px[1:4], average, rtol=1e-5)


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
