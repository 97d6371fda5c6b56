"""One position for the eight symmetric copies of an image."""

import itertools

import numpy as np
import pytest

from wbc_jax.data import orientation

POSITIONS = list(itertools.product((False, True), repeat=3))


def copies(image):
    for mirror, turns in itertools.product((False, True), range(4)):
        yield np.ascontiguousarray(np.rot90(image[::-1] if mirror else image, turns))


def canonical(image):
    return orientation.place(image, orientation.find(image))


@pytest.mark.parametrize("shape", [(40, 40), (33, 50), (50, 33), (1, 7)])
def test_eight_copies_become_one_image(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = {(c.shape, c.tobytes()) for c in map(canonical, copies(image))}
    assert len(found) == 1
    assert len({c.tobytes() for c in copies(image)}) > 1


def test_dark_content_goes_to_the_right():
    image = np.full((20, 20, 3), 200, np.uint8)
    image[7, 1] = 0  # three rows above the middle, nine columns left of it
    found = canonical(image)
    assert np.argwhere(found[..., 0] == 0).tolist() == [[12, 18]]
    assert np.argwhere(canonical(image.swapaxes(0, 1))[..., 0] == 0).tolist() == [[12, 18]]


def test_ties_are_decided_by_pixels():
    # Both moments are zero, but the copies differ.
    image = np.full((9, 9, 3), 200, np.uint8)
    image[0, 3] = image[8, 5] = image[4, 4] = 10
    assert len({c.tobytes() for c in copies(image)}) == 4
    assert len({c.tobytes() for c in map(canonical, copies(image))}) == 1


def test_brightness_does_not_turn():
    image = np.random.default_rng(2).integers(0, 180, (30, 30, 3)).astype(np.uint8)
    for gain in (0.5, 1.4):
        changed = np.rint(image * gain).astype(np.uint8)
        assert orientation.find(changed) == orientation.find(image)


@pytest.mark.parametrize("position", POSITIONS)
def test_replace_undoes_place(position):
    image = np.arange(5 * 7 * 3).reshape(5, 7, 3)
    placed = orientation.place(image, position)
    assert placed.shape == ((7, 5, 3) if position[2] else (5, 7, 3))
    np.testing.assert_array_equal(orientation.replace(placed, position), image)
    mask = image[..., 0]
    np.testing.assert_array_equal(orientation.place(mask, position), placed[..., 0])
