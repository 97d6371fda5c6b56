"""wbc_jax.data.traced_isolation: the cell that `isolation` finds."""

import jax
import numpy as np
import pytest

from wbc_jax.data import isolation, traced_isolation
from wbc_jax.data.resize import resize_image

SIDE = 24
keep = jax.jit(traced_isolation.keep_middle_cell)
isolate = jax.jit(traced_isolation.isolate, static_argnums=(2, 3))


def disc(mask, middle, radius, value):
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= radius**2] = value
    return mask


def cells(*discs, holes=0.0):
    mask = np.zeros((60, 70), np.uint8)
    for y, x, cytoplasm, _ in discs:
        disc(mask, (y, x), cytoplasm, 1)
    for y, x, _, nucleus in discs:
        if nucleus is not None:
            disc(mask, (y, x), nucleus, 2)
    mask[np.random.default_rng(0).random(mask.shape) < holes] = 0
    return mask


MASKS = {
    "one": cells((30, 30, 14, 7)),
    "a neighbor apart": cells((30, 30, 14, 7), (8, 60, 9, 5)),
    "holes and crumbs": cells((30, 30, 14, 7), (8, 60, 9, 5), holes=0.05),
    "two lobes": cells((30, 30, 16, None)) | cells((30, 22, 5, 5), (30, 38, 5, 5)),
    "at the edge": cells((2, 35, 12, 6), (55, 2, 10, 9)),
    "no nucleus": cells((30, 30, 14, None)),
    "nothing": np.zeros((60, 70), np.uint8),
    "ignored": np.full((60, 70), 255, np.uint8),
    "the whole image": np.full((60, 70), 2, np.uint8),
    "a pixel": cells((30, 30, 0, 0)),
    "wider than high": np.repeat([[0], [1], [0]], (20, 20, 20), 0).astype(np.uint8).repeat(70, 1),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_cells_are_those_of_isolation(mask):
    np.testing.assert_array_equal(keep(mask), isolation.keep_middle_cell(mask))
    rng = np.random.default_rng(0)
    light = np.array([230, 200, 180]) - 60 * mask.clip(0, 2)[..., None]
    image = (light + rng.integers(-20, 20, (60, 70, 3))).clip(0, 255).astype(np.uint8)
    found = np.asarray(isolate(image, mask, SIDE)).astype(int)
    expected = resize_image(isolation.isolate(image, mask), SIDE, SIDE)
    assert np.abs(found - expected).max() <= 1
    for stain in (isolation.Stain(1.7), isolation.Stain(1.7, 0.36)):
        found = np.asarray(isolate(image, mask, SIDE, stain)).astype(int)
        expected = resize_image(isolation.isolate(image, mask, stain), SIDE, SIDE)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("color", [(215, 200, 215), (240, 180, 200), (240, 240, 240)])
def test_red_cells_are_those_of_isolation(color):
    """Red cells; what absorbs hardly any red; glass."""
    mask = cells((30, 30, 14, 7))
    image = np.array([(245, 245, 245), (170, 150, 200), (90, 50, 120)], np.uint8)[mask]
    image[:, 55:] = color
    noise = np.random.default_rng(0).integers(-9, 9, image.shape)
    image = (image + noise).clip(0, 255).astype(np.uint8)
    stain = isolation.Stain(1.7, 0.36)
    found = np.asarray(isolate(image, mask, SIDE, stain)).astype(int)
    expected = resize_image(isolation.isolate(image, mask, stain), SIDE, SIDE).astype(int)
    assert np.abs(found - expected).max() <= 1
    usual = isolation.isolate(image, mask, isolation.Stain(1.7))
    assert np.abs(expected - resize_image(usual, SIDE, SIDE)).max() > 5


def test_the_neighbor_that_touches_is_parted():
    mask = cells((30, 22, 18, 8), (30, 47, 11, 6))
    alone = isolation.keep_middle_cell(mask)
    found = np.asarray(keep(mask))
    assert (mask != alone).sum() > 200  # the neighbor is taken away
    np.testing.assert_array_equal(found, alone)
    other = cells((30, 22, 18, 8), (44, 44, 12, 6))
    assert (np.asarray(keep(other)) != isolation.keep_middle_cell(other)).sum() <= 10
    assert (np.asarray(keep(other)) != other).sum() > 200
    # Without a nucleus of its own it is an arm of the cell.
    arm = cells((30, 22, 18, 8), (30, 47, 11, None))
    np.testing.assert_array_equal(isolation.keep_middle_cell(arm), arm)
    np.testing.assert_array_equal(keep(arm), arm)
