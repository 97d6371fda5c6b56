"""Cells of a slide: which region has them, each once, in pixels of the slide."""

import numpy as np
import pytest

from wbc_jax.fields.cells import Cell, Field
from wbc_jax.fields.smear import Region
from wbc_jax.report import slide_cells

LEFT = Region(0, (0, 0, 100, 100), (0, 0, 130, 130))
RIGHT = Region(1, (0, 100, 100, 200), (0, 70, 130, 230))


def field(boxes):
    """Draws a field of 130 x 160 whose cells fill their boxes."""
    labels = np.zeros((130, 160), np.uint16)
    cells = []
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = number
        cells.append(Cell(cell=number, top=top, left=left, bottom=bottom, right=right))
    return Field(cells, (labels > 0).astype(np.uint8) * 2, labels, 0.25, "drawn", False)


def boxes(found):
    return [cell.box for cell in found.cells]


def test_a_cell_is_of_the_region_that_has_its_center():
    inside, beyond = (40, 60, 60, 80), (40, 110, 60, 130)
    # Centers at x 99.5 and 100 on the slide: the border is the right region's.
    last, first = (5, 90, 15, 109), (25, 90, 35, 110)
    found = slide_cells.own(LEFT, field([inside, beyond, last, first]), [LEFT], 0.25)
    assert boxes(found) == [inside, last]
    assert [cell.cell for cell in found.cells] == [1, 2]
    assert set(np.unique(found.labels)) == {0, 1, 2}
    np.testing.assert_array_equal(found.labels[last[0] : last[2], last[1] : last[3]], 2)
    np.testing.assert_array_equal(found.mask, np.where(found.labels > 0, 2, 0))


@pytest.mark.parametrize(("um_per_px", "border"), [(0.25, 8), (None, 8), (0.5, 4)])
def test_a_region_also_takes_what_a_visited_neighbor_may_miss(um_per_px, border):
    # Centers at x 100 + border - 1 and 100 + border.
    near = (40, 90 + border - 1, 60, 110 + border - 1)
    far = (70, 90 + border, 90, 110 + border)
    cells = field([near, far])
    assert boxes(slide_cells.own(LEFT, cells, [LEFT, RIGHT], um_per_px)) == [near]
    assert boxes(slide_cells.own(LEFT, cells, [LEFT], um_per_px)) == []


def test_a_cell_that_two_regions_see_is_taken_once():
    taken = slide_cells.Taken()
    assert taken.add((100, 250, 120, 270))
    # The same cell, moved across the border of a bin of 256 pixels: IoU 14 / 26.
    assert not taken.add((100, 256, 120, 276))
    # IoU 9 / 31 = 0.29: another cell that touches it; and one that encloses it by far.
    assert taken.add((100, 261, 120, 281))
    assert taken.add((50, 200, 170, 320))
    assert taken.centers == [(110, 260), (110, 271), (110, 260)]


def test_pixels_of_the_slide():
    cell = slide_cells.shifted(field([(10, 20, 30, 50)]).cells[0], RIGHT)
    assert cell.box == (10, 90, 30, 120)
    row = {"cell": 3, "top": 10, "left": 20, "bottom": 30, "right": 50}
    moved = {"cell": 3, "top": 10, "left": 90, "bottom": 30, "right": 120}
    assert slide_cells.shifted_row(row, RIGHT) == moved


def test_cells_are_numbered_on():
    found = slide_cells.selected(
        field([(0, 0, 9, 9), (20, 20, 29, 29), (40, 40, 49, 49)]), [0, 2], 7
    )
    assert [(cell.cell, cell.top) for cell in found.cells] == [(8, 0), (9, 40)]
    assert sorted(np.unique(found.labels)) == [0, 8, 9] and found.labels[45, 45] == 9
