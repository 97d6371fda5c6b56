"""How the finder tells nuclei apart."""

import numpy as np
from scipy import ndimage
from skimage import morphology

from wbc_jax.fields import nuclei


def test_peaks_equal_h_maxima_of_the_whole_image():
    rng = np.random.default_rng(1)
    checked = 0
    for size in (2, 3, 5):
        height = ndimage.gaussian_filter(rng.random((80, 70)), size).astype(np.float32)
        height = 10 * np.maximum(height - np.median(height), 0) / height.std()
        for least in np.quantile(height, (0.7, 0.9, 0.97)):
            expected = (morphology.h_maxima(height, 4.0) > 0) & (height > least)
            found = nuclei._peaks(height, 4.0, float(least))
            assert np.array_equal(found, expected)
            checked += expected.any()
    assert checked >= 6
    assert not nuclei._peaks(np.zeros((5, 5), np.float32), 1.0, 3.0).any()
