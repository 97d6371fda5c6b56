"""wbc_jax.utils.color equals Pillow's luma."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from wbc_jax.utils import color


def test_gray_by_hand():
    pixels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.5, 1, 0]], np.float32)
    expected = [[0.299], [0.587], [0.114], [1], [0.7365]]
    np.testing.assert_allclose(color.to_gray(pixels), expected, rtol=1e-6)


def test_gray_equals_pillow():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    found = color.to_gray(jnp.asarray(image, jnp.float32))
    assert found.shape == (9, 7, 1)
    np.testing.assert_allclose(found[..., 0], expected, atol=0.51)  # Pillow rounds
