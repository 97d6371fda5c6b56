"""wbc_jax.data.traced_resize: as OpenCV and SciPy resize, and by hand."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbc_jax.data import resize, traced_resize

whole = jax.jit(traced_resize.resize_whole, static_argnums=1)


@pytest.mark.parametrize(
    "height, width, side, differ",
    [
        (36, 35, 8, 0), (64, 48, 32, 0.05), (16, 16, 16, 0),  # areas; the same size
        (20, 30, 32, 0.2), (20, 60, 32, 0.2), (1, 1, 5, 0), (1, 40, 16, 0.2),  # bilinear
    ],
)  # fmt: skip
def test_an_image_is_resized_as_elsewhere(height, width, side, differ):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    found = np.asarray(whole(image, side))
    assert found.dtype == np.uint8
    expected = resize.resize_image(image, side, side)
    # A half may be rounded either way. OpenCV interpolates uint8 with 11 bits.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() <= differ


def test_thirds_by_hand():
    image = np.zeros((3, 3, 3), np.uint8)
    image[..., 0] = [[0, 90, 180]] * 3
    assert np.asarray(whole(image, 2))[..., 0].tolist() == [[30, 150]] * 2


@pytest.mark.parametrize("rows, columns", [((3, 12), (5, 9)), ((0, 40), (0, 12)), ((8, 1), (2, 3))])
def test_a_window_is_resized_as_if_it_were_cut_out(rows, columns):
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    cut = image[rows[0] : sum(rows), columns[0] : sum(columns)]
    found = jax.jit(traced_resize.resize_image, static_argnums=1)(
        image, 8, jnp.array(rows), jnp.array(columns)
    )
    np.testing.assert_array_equal(found, whole(cut, 8))


@pytest.mark.parametrize("height, width", [(20, 21), (16, 16), (8, 40), (1, 3)])
def test_logits_are_resized_as_opencv_does(height, width):
    logits = np.random.default_rng(2).normal(size=(16, 16, 3)).astype(np.float32)
    found = jax.jit(traced_resize.resize_logits, static_argnums=(1, 2))(logits, height, width)
    expected = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found, expected, atol=1e-5)
