"""wbc_jax.data.resize: sizes whose pixels can be computed by hand."""

import pathlib
import re

import cv2
import numpy as np
import pytest

from wbc_jax.data.resize import resize_image, resize_mask


def pixels(index, height=10, width=12):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))


def test_image_halved_is_the_mean_of_four():
    image = 4 * np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    expected = image.reshape(2, 2, 2, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(resize_image(image, 2, 2), expected)


@pytest.mark.parametrize("size", [(25, 25), (18, 18), (9, 24), (1, 1), (35, 34), (12, 9)])
def test_image_shrunk_is_the_mean_of_the_area(size):
    image = np.random.default_rng(0).integers(0, 256, (36, 35, 3), np.uint8)
    found = resize_image(image, *size)
    assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"]
    # Every old pixel cut into as many parts as there are new ones makes the means exact.
    height, width = size
    parts = image.repeat(height, 0).repeat(width, 1).reshape(height, 36, width, 35, 3)
    assert np.abs(found - parts.mean((1, 3))).max() <= 0.5 + 1e-4
    theirs = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - theirs).max() <= 1  # halves may be rounded either way


@pytest.mark.parametrize("size", [(36, 35), (64, 40), (16, 16), (10, 12), (8, 40), (1, 1), (1, 9)])
def test_the_resize_that_the_documents_define(size):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import numpy as np\n.*?)```", text, re.DOTALL)
    exec(code, defined := {})
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found, expected = defined["resize"](image, 16), resize_image(image, 16, 16)
    assert found.dtype == np.uint8 and found.shape == (16, 16, 3)
    # A half may be rounded either way. OpenCV interpolates uint8 with 11 bits.
    assert np.abs(found.astype(int) - expected).max() <= 1
    shrinks = min(size) > 16
    assert (found != expected).mean() <= (0.01 if shrinks or size == (16, 16) else 0.25)


def test_image_shrunk_by_thirds():
    # Each new pixel spans one and a half old ones: 2/3 and 1/3, by row and by column.
    image = np.zeros((3, 3, 3), np.uint8)
    image[..., 0], image[..., 1] = [[0, 90, 180]] * 3, [[9] * 3, [90] * 3, [180] * 3]
    shrunk = resize_image(image, 2, 2)
    assert shrunk[..., 0].tolist() == [[30, 150]] * 2 and shrunk[..., 1].tolist() == [
        [36, 36],
        [150, 150],
    ]


def test_image_enlarged_is_bilinear_with_half_pixel_centres():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = [100, 200, 40]
    # Centres at -1/4, 1/4, 3/4, 5/4 of the way; beyond the ends the edge is repeated.
    expected = np.array([0, 0.25, 0.75, 1])[:, None] * image[0, 1]
    np.testing.assert_array_equal(resize_image(image, 1, 4)[0], expected)


def test_axes_are_not_swapped():
    image, mask = pixels(0)
    assert resize_image(image, 5, 6).shape == (5, 6, 3)
    assert resize_image(image, 15, 6).shape == (15, 6, 3)
    assert resize_mask(mask, 5, 6).shape == (5, 6)


def test_same_size_is_left_alone():
    image, mask = pixels(0)
    np.testing.assert_array_equal(resize_image(image, 10, 12), image)
    np.testing.assert_array_equal(resize_mask(mask, 10, 12), mask)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_mask_enlarged_is_repeated(factor):
    _, mask = pixels(0)
    expected = mask.repeat(factor, 0).repeat(factor, 1)
    np.testing.assert_array_equal(resize_mask(mask, 10 * factor, 12 * factor), expected)


@pytest.mark.parametrize("factor", [3, 5])
def test_mask_shrunk_takes_the_middle_pixel(factor):
    # Odd factors have a middle: no half pixel of shift against the image.
    mask = np.random.default_rng(0).integers(0, 3, (4 * factor, 2 * factor)).astype(np.uint8)
    middle = mask[factor // 2 :: factor, factor // 2 :: factor]
    np.testing.assert_array_equal(resize_mask(mask, 4, 2), middle)


@pytest.mark.parametrize("size", [(3, 3), (7, 5), (10, 32), (64, 64)])
def test_mask_gains_no_value_and_keeps_its_nearest_pixels(size):
    mask = np.random.default_rng(0).choice(np.array([0, 2, 255], np.uint8), (10, 12))
    new = resize_mask(mask, *size)
    rows, columns = (
        np.floor((np.arange(new_n) + 0.5) * n / new_n).astype(int)
        for new_n, n in zip(size, (10, 12))
    )
    np.testing.assert_array_equal(new, mask[np.ix_(rows, columns)])
