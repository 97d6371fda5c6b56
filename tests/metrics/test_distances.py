"""wbc_jax.metrics.distances: against SciPy's distance transform and MONAI."""

import numpy as np
import pytest

from helpers.drawn_masks import distances, each, one_hot, pairs, square
from wbc_jax import metrics


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


def test_what_is_missed_or_added_is_counted_beside_the_means():
    truth, prediction = np.zeros((2, 4, 3, 12), np.uint8)
    truth[0, 1, 4] = prediction[0, 1, 6] = 1  # 2 pixels apart
    truth[1, 1, 4] = 1  # missed
    prediction[2, 1, 4] = 1  # added
    found = metrics.surface_distances(truth, prediction, 3)
    nan = np.nan
    np.testing.assert_array_equal(found.average_px[:, 1], [2, nan, nan, nan])
    np.testing.assert_array_equal(found.hausdorff_95_px[:, 1], [2, nan, nan, nan])
    # Of background, class 1 and class 2, which is nowhere.
    assert found.images.tolist() == [4, 1, 0]
    assert found.missed.tolist() == [0, 1, 0]
    assert found.added.tolist() == [0, 1, 0]


def test_squared_distances_are_exact_integers():
    truth, prediction = square(10, 10), square(12, 13)
    found = np.asarray(metrics.boundary_distances(truth, prediction, 2, 64))
    assert found.dtype == np.int32 and found.shape == (1, 2, 2, 64)
    for direction, expected in enumerate(distances(truth[0], prediction[0], 1)):
        valid = found[0, 1, direction]
        assert sorted(valid[valid >= 0]) == sorted(np.rint(expected**2).astype(int))
    # Without a limit there is room for every pixel; with one, the background's points are cut off.
    unlimited = np.asarray(metrics.boundary_distances(truth, prediction, 2))
    assert unlimited.shape[-1] == 1600
    assert np.array_equal(unlimited[..., :64], found)
    assert (unlimited[:, 1, :, 64:] == -1).all()


def test_monai_distances_coincide_where_the_class_is_on_both_sides():
    monai = pytest.importorskip("monai.metrics")
    truth, prediction = pairs(120, 120)
    ours = metrics.surface_distances(truth, prediction, 3)
    both = one_hot(prediction[1:4], 3), one_hot(truth[1:4], 3)
    hausdorff = monai.compute_hausdorff_distance(*both, include_background=True, percentile=95)
    average = monai.compute_average_surface_distance(*both, include_background=True, symmetric=True)
    np.testing.assert_allclose(ours.hausdorff_95_px[1:4], hausdorff, rtol=1e-5)
    np.testing.assert_allclose(ours.average_px[1:4], average, rtol=1e-5)
