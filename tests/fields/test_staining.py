"""The surface of light that the finder fits."""

import numpy as np

from wbc_jax.fields import staining


def test_a_weighted_fit_equals_numpys_least_squares():
    rng = np.random.default_rng(0)
    ys, xs = staining._whole(30), staining._whole(41)[::2]
    values, weights = rng.normal(size=(30, 21, 2)), rng.random((30, 21)) < 0.4
    terms = staining._terms(ys, xs)
    for ridge in (0.0, 0.02):
        # A ridge penalty is a row for each penalized factor.
        rows = np.sqrt(ridge * weights.size) * np.eye(6)[1:]
        expected = np.linalg.lstsq(
            np.concatenate([terms[weights], rows]),
            np.concatenate([values[weights], np.zeros((5, 2))]),
            rcond=None,
        )[0]
        found = staining._fit(values, weights, ys, xs, ridge)
        np.testing.assert_allclose(found.T, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(
        staining._surface(found, ys, xs), terms @ found.T, rtol=1e-5, atol=1e-6
    )
