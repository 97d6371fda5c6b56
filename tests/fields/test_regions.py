"""What OpenCV and NumPy compute for the finder equals scikit-image and SciPy, at edges too."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from wbc_jax.fields import regions


@pytest.fixture(params=[0.1, 0.5, 0.9])
def mask(request):
    return np.random.default_rng(3).random((41, 30)) < request.param


@pytest.mark.parametrize("radius", [1, 2, 3, 6])
def test_opening_closing_and_dilation_equal_scikit_images(mask, radius):
    disk = regions.disk(radius)
    before = mask.copy()
    for ours, theirs in (
        (regions.opened, morphology.opening),
        (regions.closed, morphology.closing),
        (regions.dilated, morphology.dilation),
    ):
        found = ours(mask, disk)
        assert found.dtype == bool and np.array_equal(found, theirs(mask, disk))
    assert np.array_equal(mask, before)


def test_maxima_equal_scipys(mask):
    values = np.random.default_rng(4).random(mask.shape).astype(np.float32)
    labels, count = ndimage.label(mask)
    expected = ndimage.maximum(values, labels, range(1, count + 1))
    assert np.array_equal(regions.maxima(values, labels, count), expected)
    assert np.array_equal(regions.maxima(values, labels, count + 2)[-2:], [0, 0])
    assert regions.maxima(values, np.zeros_like(labels), 0).shape == (0,)
