"""wbc_jax.metrics.nc_ratio: areas, ratios, and flags of undefined ratios."""

import cv2
import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.metrics.nc_ratio import FLAGS, from_areas

MASKS = np.array(
    [
        [[0, 1, 1, 1], [2, 2, 2, 1]],  # 3 nucleus, 4 cytoplasm
        [[0, 0, 0, 0], [2, 2, 0, 0]],  # no cytoplasm
        [[0, 1, 1, 0], [0, 0, 0, 0]],  # no nucleus
        [[0, 0, 0, 0], [0, 0, 0, 0]],  # no cell
        [[2, 2, 1, 255], [255, 0, 0, 0]],  # pixels of unknown class count for nothing
    ],
    np.uint8,
)


def test_hand_drawn_masks():
    result = metrics.nc_ratio(MASKS)
    assert isinstance(result, metrics.NCRatio)
    assert result.nucleus_px.tolist() == [3, 2, 0, 0, 2]
    assert result.cytoplasm_px.tolist() == [4, 0, 2, 0, 1]
    np.testing.assert_array_equal(result.nc_ratio, [0.75, np.inf, np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(result.nucleus_share, [3 / 7, 1.0, np.nan, np.nan, 2 / 3])
    assert result.flag.tolist() == ["", "no_cytoplasm", "no_nucleus", "no_cell", ""]


def test_every_flag_is_listed():
    assert set(metrics.nc_ratio(MASKS).flag) == set(FLAGS)


def test_no_numpy_warning_reaches_the_user():
    with np.errstate(all="raise"):
        metrics.nc_ratio(MASKS)


def test_areas_beyond_int32():
    result = from_areas([3 * 2**31], [2**31])
    assert result.nucleus_px.dtype == np.int64
    assert result.nc_ratio.tolist() == [3.0] and result.nucleus_share.tolist() == [0.75]


def test_no_images():
    assert len(metrics.nc_ratio(np.zeros((0, 2, 2), np.uint8)).flag) == 0


def test_one_mask_without_the_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\); it must be \[N, H, W\]"):
        metrics.nc_ratio(MASKS[0])


def test_region_means_by_hand():
    mask = np.array([[[2, 2, 1, 0], [1, 1, 0, 255]]])
    image = np.array([[[10, 20, 30, 200], [60, 90, 100, 250]]], np.uint8)
    means = metrics.region_means(image, mask)
    # The picture with everything but the nucleus blacked out has a mean of 30 / 8.
    assert means.nucleus_image_mean.tolist() == [30 / 8]
    assert means.cytoplasm_image_mean.tolist() == [180 / 8]
    assert means.image_mean_ratio.tolist() == [30 / 180]
    assert means.nucleus_mean.tolist() == [15] and means.cytoplasm_mean.tolist() == [60]
    assert means.mean_ratio.tolist() == [0.25]


def test_region_means_of_colour_are_those_of_its_grey():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 9, 8, 3)).astype(np.uint8)
    mask = rng.integers(0, 3, (3, 9, 8)).astype(np.uint8)
    means = metrics.region_means(image, mask)
    for i in range(3):
        grey = cv2.cvtColor(image[i].astype(np.float32), cv2.COLOR_RGB2GRAY)
        for region, whole, inside in (
            (2, means.nucleus_image_mean, means.nucleus_mean),
            (1, means.cytoplasm_image_mean, means.cytoplasm_mean),
        ):
            np.testing.assert_allclose(whole[i], np.where(mask[i] == region, grey, 0).mean(), 1e-5)
            np.testing.assert_allclose(inside[i], grey[mask[i] == region].mean(), 1e-5)
    one_channel = metrics.region_means(image[..., 1], mask)
    same = metrics.region_means(np.repeat(image[..., 1:2], 3, -1), mask)
    np.testing.assert_allclose(one_channel.nucleus_mean, same.nucleus_mean, rtol=1e-12)


def test_image_means_are_the_means_inside_times_the_share_of_the_area():
    # Paper A's columns: with equal grey in both regions their ratio is that of the areas.
    means = metrics.region_means(np.full(MASKS.shape, 7.0), MASKS)
    areas = metrics.nc_ratio(MASKS)
    np.testing.assert_allclose(means.image_mean_ratio, areas.nc_ratio)
    np.testing.assert_allclose(means.nucleus_image_mean, 7 * areas.nucleus_px / 8)


def test_region_means_without_a_region():
    with np.errstate(all="raise"):
        means = metrics.region_means(np.full(MASKS.shape, 7), MASKS)
    nan = np.nan
    np.testing.assert_array_equal(means.nucleus_mean, [7, 7, nan, nan, 7])
    np.testing.assert_array_equal(means.cytoplasm_mean, [7, nan, 7, nan, 7])
    np.testing.assert_array_equal(means.mean_ratio, [1, nan, nan, nan, 1])
    np.testing.assert_array_equal(means.image_mean_ratio, [0.75, np.inf, nan, nan, 2])


def test_images_that_do_not_fit_their_masks_are_refused():
    for shape in ((5, 2, 3), (5, 2, 4, 4), (4, 2, 4, 3)):
        with pytest.raises(ValueError, match=r"image has shape .* and mask \(5, 2, 4\)"):
            metrics.region_means(np.zeros(shape), MASKS)
