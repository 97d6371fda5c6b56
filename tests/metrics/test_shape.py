"""wbc_jax.metrics.shape: drawn shapes, and OpenCV's components and moments."""

import warnings

import cv2
import numpy as np
import pytest

from wbc_jax import metrics


def blank(size=80):
    return np.zeros((size, size), np.uint8)


def disc(mask, y, x, radius, value=2):
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    mask[np.hypot(rows - y, columns - x) < radius] = value
    return mask


def test_disc():
    mask = disc(disc(blank(), 40, 40, 30, 1), 40, 40, 20)
    shape = metrics.cell_shape(mask[None])
    assert shape.lobes.tolist() == [1]
    assert shape.nucleus.area_px.tolist() == [(mask == 2).sum()]
    assert shape.cell.area_px.tolist() == [(mask > 0).sum()]
    for part, radius in ((shape.nucleus, 20), (shape.cell, 30)):
        np.testing.assert_allclose(part.perimeter_px, 2 * np.pi * radius, rtol=0.02)
        np.testing.assert_allclose(part.circularity, 1, atol=0.02)
        np.testing.assert_allclose(part.solidity, 1, atol=0.03)
        np.testing.assert_allclose(part.eccentricity, 0, atol=1e-6)


def test_rectangle():
    mask = blank()
    mask[10:30, 5:65] = 2
    nucleus = metrics.cell_shape(mask[None]).nucleus
    assert nucleus.area_px.tolist() == [1200] and nucleus.solidity.tolist() == [1]
    # Variances along the sides: (n² − 1) / 12 for n pixels in a row.
    np.testing.assert_allclose(nucleus.eccentricity, np.sqrt(1 - 399 / 3599), rtol=1e-12)
    np.testing.assert_allclose(nucleus.circularity, np.pi * 20 * 60 / 80**2, rtol=0.15)


def test_solidity_of_a_notched_square():
    mask = blank()
    mask[10:40, 10:40] = 2
    mask[10:30, 20:30] = 1  # a notch of 20 x 10 in 30 x 30
    shape = metrics.cell_shape(mask[None])
    np.testing.assert_allclose(shape.nucleus.solidity, 700 / 900, rtol=1e-12)
    assert shape.cell.solidity.tolist() == [1]


def test_lobes():
    three = disc(disc(disc(blank(), 20, 20, 9), 20, 50, 9), 50, 40, 9)
    speck = three.copy()
    speck[70, 70:73] = 2
    joined = three.copy()
    joined[20, 20:50] = 2
    corner = blank()
    corner[10:20, 10:20] = corner[20:30, 20:30] = 2  # touch at a corner: 8-connected
    shape = metrics.cell_shape(np.stack([three, speck, joined, corner, blank()]))
    assert shape.lobes.tolist() == [3, 3, 2, 1, 0]
    # The speck is in the cell's area, and not in the nucleus'.
    areas = shape.nucleus.area_px
    assert areas[1] == areas[0] and shape.cell.area_px[1] == areas[0] + 3
    every = metrics.cell_shape(speck[None], min_lobe_share=0)
    assert every.lobes.tolist() == [4] and every.nucleus.area_px[0] == areas[0] + 3
    # Far apart, they fill little of their hull and have a long outline for their area.
    assert shape.nucleus.solidity[0] < 0.5 and shape.nucleus.circularity[0] < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_equals_opencv_on_random_blobs(seed):
    noise = np.random.default_rng(seed).normal(size=(90, 70))
    mask = (cv2.GaussianBlur(noise, (0, 0), 4) > 0.03).astype(np.uint8) * 2
    shape = metrics.cell_shape(mask[None], min_lobe_share=0.05)
    _, labels, found, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = 1 + np.flatnonzero(found[1:, cv2.CC_STAT_AREA] >= 0.05 * (mask > 0).sum())
    assert shape.lobes.tolist() == [len(large)] and 1 < len(large) < len(found) - 1
    kept = np.isin(labels, large).astype(np.uint8)
    assert shape.nucleus.area_px.tolist() == [kept.sum()]
    moments = cv2.moments(kept, binaryImage=True)
    variances = np.linalg.eigvalsh(
        [[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]]
    )
    expected = np.sqrt(1 - variances[0] / variances[1])
    np.testing.assert_allclose(shape.nucleus.eccentricity, expected, rtol=1e-9)


def test_square_micrometres():
    masks = np.stack([disc(blank(), 40, 40, 20)] * 2)
    area = (masks[0] == 2).sum()
    known = metrics.cell_shape(masks, um_per_px=[0.5, np.nan])
    np.testing.assert_array_equal(known.nucleus.area_um2, [area / 4, np.nan])
    np.testing.assert_array_equal(metrics.cell_shape(masks, 0.1).cell.area_um2, [area * 0.1**2] * 2)
    assert np.isnan(metrics.cell_shape(masks).nucleus.area_um2).all()


def test_empty_and_tiny_regions_are_no_trouble():
    pixel, full = blank(), np.full((80, 80), 2, np.uint8)
    pixel[0, 0] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shape = metrics.cell_shape(np.stack([blank(), pixel, full]), um_per_px=0.1)
        none = metrics.cell_shape(np.zeros((0, 5, 5), np.uint8))
    assert shape.nucleus.area_px.tolist() == [0, 1, 6400]
    for name in ("perimeter_px", "circularity", "solidity", "eccentricity"):
        assert np.isnan(getattr(shape.nucleus, name)).tolist() == [True, False, False]
    assert shape.nucleus.solidity[1:].tolist() == [1, 1]
    assert none.lobes.shape == none.cell.solidity.shape == (0,)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"shape \(80, 80\); it must be \[N, H, W\]"):
        metrics.cell_shape(blank())
    with pytest.raises(ValueError, match="um_per_px is 0"):
        metrics.cell_shape(blank()[None], um_per_px=0)
    with pytest.raises(ValueError, match="min_lobe_share is 5"):
        metrics.cell_shape(blank()[None], min_lobe_share=5)
