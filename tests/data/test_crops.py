"""Cutting cells out of frames: cases worked by hand, and what holds for every box."""

import numpy as np
import pytest

from wbc_jax.data import crops
from wbc_jax.errors import DataError


@pytest.mark.parametrize(
    "box, frame, margin, expected",
    [
        # In the middle: 20 long, 0.1 adds 2 at each end.
        ((40, 40, 60, 60), (100, 100), 0.1, (38, 38, 62, 62)),
        ((40, 40, 60, 60), (100, 100), 0, (40, 40, 60, 60)),
        # The longer side decides: 10 high and 20 wide.
        ((45, 40, 55, 60), (100, 100), 0.0, (40, 40, 60, 60)),
        # 11 and 20 do not share a middle: half a pixel up.
        ((45, 40, 56, 60), (100, 100), 0.0, (40, 40, 60, 60)),
        # A margin of 0.1 x 30 is 3, of 0.1 x 31 rounded up 4.
        ((30, 30, 60, 60), (100, 100), 0.1, (27, 27, 63, 63)),
        ((30, 30, 61, 61), (100, 100), 0.1, (26, 26, 65, 65)),
        # Shifted into the frame at each of its edges and in a corner.
        ((0, 40, 20, 60), (100, 100), 0.25, (0, 35, 30, 65)),
        ((80, 40, 100, 60), (100, 100), 0.25, (70, 35, 100, 65)),
        ((40, 1, 60, 21), (100, 100), 0.25, (35, 0, 65, 30)),
        ((40, 79, 60, 99), (100, 100), 0.25, (35, 70, 65, 100)),
        ((80, 80, 100, 100), (100, 100), 0.25, (70, 70, 100, 100)),
        # Larger than the frame: the margin gives way.
        ((10, 10, 90, 90), (100, 100), 1.0, (0, 0, 100, 100)),
        ((0, 0, 100, 100), (100, 100), 0.5, (0, 0, 100, 100)),
        # A frame that is no square: still a square of its shorter side ...
        ((20, 300, 570, 650), (576, 720), 0.2, (0, 144, 576, 720)),
        ((300, 20, 650, 570), (720, 576), 0.2, (144, 0, 720, 576)),
        # ... unless the box is longer than that.
        ((100, 20, 200, 700), (576, 720), 0.2, (0, 20, 576, 700)),
        ((0, 0, 576, 720), (576, 720), 0.0, (0, 0, 576, 720)),
        # One pixel.
        ((0, 0, 1, 1), (1, 1), 0.5, (0, 0, 1, 1)),
        ((5, 5, 6, 6), (10, 10), 0.5, (4, 4, 7, 7)),
    ],
)
def test_crops_by_hand(box, frame, margin, expected):
    assert crops.square_crop_box(box, *frame, margin) == expected


def test_every_crop_holds_its_box_inside_the_frame():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        height, width = rng.integers(1, 60, 2)
        y0, x0 = rng.integers(0, height), rng.integers(0, width)
        y1, x1 = rng.integers(y0 + 1, height + 1), rng.integers(x0 + 1, width + 1)
        margin = float(rng.uniform(0, 1))
        top, left, bottom, right = crops.square_crop_box((y0, x0, y1, x1), height, width, margin)
        assert 0 <= top <= y0 and y1 <= bottom <= height
        assert 0 <= left <= x0 and x1 <= right <= width
        if max(y1 - y0, x1 - x0) <= min(height, width):
            assert bottom - top == right - left
        assert all(type(edge) is int for edge in (top, left, bottom, right))


@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 11, 5), (0, 0, 5, 21), (5, 0, 5, 5), (0, 6, 5, 5)]
)
def test_boxes_that_are_empty_or_outside_are_refused(box):
    with pytest.raises(DataError, match=r"empty or reaches out .* <= 10 and .* <= 20"):
        crops.square_crop_box(box, 10, 20, 0.1)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_margins_below_zero_are_refused(margin):
    with pytest.raises(DataError, match="margin"):
        crops.square_crop_box((0, 0, 5, 5), 10, 10, margin)


def test_bounding_box():
    region = np.zeros((5, 7), bool)
    assert crops.bounding_box(region) is None
    region[3, 2] = region[1, 5] = True
    y0, x0, y1, x1 = box = crops.bounding_box(region)
    assert box == (1, 2, 4, 6) and region[y0:y1, x0:x1].sum() == region.sum()
    assert crops.bounding_box(np.ones((5, 7), bool)) == (0, 0, 5, 7)
