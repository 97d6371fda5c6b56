"""Windows of drawn fields whose cells are known, and of crops."""

import numpy as np
import pytest

from helpers.drawn_fields import LIGHT, boxes_of, plain_field
from wbc_jax.data import light, orientation
from wbc_jax.errors import DataError
from wbc_jax.fields import windows

CELLS = [(150, 120, 26, 40), (180, 350, 30, 44)]


def planned(image, find="yes", known=None):
    seen = []
    return windows.plan(image, known, find, seen.append), seen


def test_a_window_around_each_cell():
    plan, seen = planned(plain_field(CELLS))
    assert len(plan.windows) == len(plan.cells) == 2 and not plan.one_cell
    for (top, left, bottom, right), cell in zip(sorted(plan.windows, key=lambda w: w[1]), CELLS):
        (box,) = boxes_of([cell])
        assert bottom - top == right - left
        assert top <= box[0] and left <= box[1] and box[2] <= bottom and box[3] <= right
        assert abs((top + bottom) / 2 - cell[0]) <= 3 and abs((left + right) / 2 - cell[1]) <= 3
    assert sum(seen) == pytest.approx(360 * 480)
    assert plan.source == "red_cells" and not plan.scales_differ


def test_a_crop_is_one_window_unless_it_is_plain():
    crop = plain_field([(60, 60, 26, 40)], 120, 120)
    plan, seen = planned(crop, "no", (0.1, "ome"))
    assert plan.windows == [(0, 0, 120, 120)] and plan.one_cell and plan.cells == []
    assert (plan.um_per_px, plan.source) == (0.1, "ome")
    assert seen == [120 * 120]
    assert planned(np.full((120, 120, 3), LIGHT, np.uint8), "no")[0].windows == []


def test_more_cells_than_labels(monkeypatch):
    monkeypatch.setattr(windows, "MAX_CELLS", 1)
    with pytest.raises(DataError, match="the image has 2 cells: allowed are 1; cut it into pieces"):
        planned(plain_field(CELLS))


def test_what_the_segmenter_is_shown():
    image = (plain_field(CELLS) * 0.7).astype(np.uint8)
    empty = np.full((100, 100, 3), LIGHT, np.uint8)
    found, none = windows.shown([image, empty], "yes")
    assert none == []
    assert [one.box for one in found] == planned(image)[0].windows
    standard = light.standardize(image)
    assert (standard != image).any()
    for one in found:
        top, left, bottom, right = one.box
        square = standard[top:bottom, left:right]
        np.testing.assert_array_equal(orientation.replace(one.pixels, one.position), square)


def test_values_of_all_images_by_image():
    assert windows.grouped("abcd", [1, 0, 3]) == [["a"], [], ["b", "c", "d"]]
