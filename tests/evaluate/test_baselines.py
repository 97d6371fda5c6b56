"""wbc_jax.evaluate.baselines: drawn cells, and images without a cell."""

import numpy as np

from wbc_jax.evaluate import baselines

PAPER, PINK, PALE_VIOLET, VIOLET = (245, 240, 242), (225, 150, 155), (205, 170, 215), (95, 60, 140)


def _disc(side, centre, radius):
    y, x = np.mgrid[:side, :side]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def _cell(side=96):
    image = np.empty((side, side, 3), np.uint8)
    image[:] = PAPER
    truth = np.zeros((side, side), np.uint8)
    truth[_disc(side, (50, 46), 30)] = 1
    truth[_disc(side, (46, 42), 15)] = 2
    image[truth == 1], image[truth == 2] = PALE_VIOLET, VIOLET
    return image, truth


def _iou(truth, found, value):
    return ((truth == value) & (found == value)).sum() / ((truth == value) | (found == value)).sum()


def test_recovers_a_drawn_cell():
    image, truth = _cell()
    found = baselines.otsu(image[None])
    assert found.dtype == np.uint8 and found.shape == (1, 96, 96)
    # The image is smoothed by 1 pixel first: only edges may differ.
    assert _iou(truth, found[0], 2) > 0.97
    assert _iou(truth, found[0], 1) > 0.9
    assert (found[0] != truth).mean() < 0.02


def test_a_red_cell_apart_is_not_counted():
    image, truth = _cell()
    red = _disc(96, (12, 82), 8)
    image[red] = PINK
    found = baselines.otsu(image[None])[0]
    assert (found[red] == 0).all()
    assert (found[truth == 2] == 2).mean() > 0.95


def test_blank_images_are_background():
    images = np.stack([np.full((20, 30, 3), value, np.uint8) for value in (0, 128, 255)])
    np.testing.assert_array_equal(baselines.otsu(images), np.zeros((3, 20, 30), np.uint8))


def test_a_cell_of_one_colour_has_no_nucleus_to_tell():
    image = np.full((40, 40, 3), 240, np.uint8)
    image[10:30, 10:30, 1] = 80  # as red inside as out
    np.testing.assert_array_equal(baselines.otsu(image[None])[0], np.zeros((40, 40), np.uint8))


def test_images_do_not_touch_each_other():
    image, _ = _cell()
    blank = np.full_like(image, 200)
    alone = baselines.otsu(image[None])[0]
    found = baselines.otsu(np.stack([blank, image, blank]))
    np.testing.assert_array_equal(found[1], alone)
    assert not found[0].any() and not found[2].any()


def test_most_frequent():
    found = baselines.most_frequent(np.array([1, 6, 3]), 2)
    np.testing.assert_allclose(found, [[0.1, 0.6, 0.3]] * 2)
