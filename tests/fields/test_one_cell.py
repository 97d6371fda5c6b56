"""Crops around one cell and fields, by what the finder found in them."""

import pytest

from wbc_jax.fields import finder, one_cell
from wbc_jax.fields.finder import Detection, Detections, Scale

KNOWN = Scale(50.0, 0.15, 9, True)


def cell(y, x, radius, nucleus_px=3000, cut=False):
    return Detection(y - radius, x - radius, y + radius, x + radius, nucleus_px, 1.0, cut)


@pytest.mark.parametrize(
    "shape, middle, red_cell_px, one",
    [
        ((300, 300), (150, 150), 70, True),
        ((300, 300), (150, 150), 20, False),  # many red cells wide
        ((480, 640), (240, 320), 90, False),  # not square
        ((300, 300), (60, 150), 70, False),  # off center
        ((300, 300), None, 70, False),  # red cells and nothing else
        ((300, 300), None, None, True),
        ((2400, 2400), (1200, 1200), 600, False),  # a cell that is small in the image
    ],
)
def test_crop_or_field(shape, middle, red_cell_px, one):
    scale = red_cell_px and finder.Scale(red_cell_px, 7.5 / red_cell_px, 9, True)
    cells = []
    if middle:
        y, x = middle
        cells = [finder.Detection(y - 50, x - 50, y + 50, x + 50, 900, 1.0, False)]
    assert (one_cell.crop_window(shape, finder.Detections(cells, scale)) is not None) == one


def window(cells, scale=None, side=300):
    return one_cell.crop_window((side, side, 3), Detections(cells, scale))


WHOLE = (0, 0, 300, 300)


def test_a_cell_in_the_middle_of_a_large_picture_is_searched():
    assert window([cell(150, 150, 66)]) == WHOLE
    assert window([cell(500, 500, 40)], side=1000) is None
    # At most 2.5 times the cell's longer side is segmented.
    assert window([cell(150, 140, 40)]) == (50, 40, 250, 240)


def test_a_crop_has_no_other_whole_cell():
    middle = cell(150, 150, 60)
    assert window([cell(50, 50, 30), middle]) is None
    assert window([cell(20, 50, 30, cut=True), middle]) == WHOLE
    # A cut neighbor whose box overlaps the cell's is no part of it.
    assert window([cell(60, 150, 60, cut=True), middle]) == WHOLE
    # A small nucleus may be a platelet, unless red cells tell its size.
    platelet = cell(60, 60, 15, nucleus_px=900)
    assert window([platelet, middle]) == WHOLE
    assert window([platelet, middle], KNOWN) is None


def test_lobes_found_one_by_one_are_one_cell():
    lobes = [cell(120, 130, 35), cell(170, 160, 35)]
    assert window(lobes) == WHOLE
    # Nuclei of 1963 px are as large as red cells: two leukocytes.
    assert window(lobes, KNOWN) is None
    small = [cell(120, 130, 35, nucleus_px=1600), cell(170, 160, 35)]
    assert window(small, KNOWN) == WHOLE
