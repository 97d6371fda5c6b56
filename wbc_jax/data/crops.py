"""Boxes around cells, and the squares to cut out of their frames."""

import math

import numpy as np

from wbc_jax.errors import DataError

MARGIN = 0.25
"""Share of a cell's longer side that builders add at each end: the cell spans two thirds."""


def bounding_box(region: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns the smallest box around the true pixels of bool `[H, W]`; None if there are none.

    Returns:
        `(y0, x0, y1, x1)` in whole pixels; `y1` and `x1` are the first row and column beyond it.
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def cut(frame: np.ndarray, box: tuple[int, int, int, int], margin: float = MARGIN) -> np.ndarray:
    """Cuts the square around a cell (`square_crop_box`) out of its frame or the frame's mask.

    Args:
        frame: `[H, W]` or `[H, W, C]`.
        box, margin: as for `square_crop_box`.

    Returns:
        A view of the frame.

    Raises:
        DataError: as `square_crop_box`.
    """
    y0, x0, y1, x1 = square_crop_box(box, *frame.shape[:2], margin)
    return frame[y0:y1, x0:x1]


def square_crop_box(
    box: tuple[int, int, int, int], height: int, width: int, margin: float
) -> tuple[int, int, int, int]:
    """Returns the square to cut out around a cell's box.

    Its side is the box's longer side plus the margin at both ends, and its middle is the box's
    (half a pixel up and left if the two cannot coincide). At the frame's edge the square is shifted
    into the frame, so that it stays square without padding; the cell is then off its middle. A
    square larger than the frame loses margin, down to the frame's shorter side. If the box itself
    is longer than that side, the result is not a square: it spans the whole frame along the shorter
    side and the box along the longer one. The result always holds the whole box.

    Args:
        box: the cell, `(y0, x0, y1, x1)` in whole pixels; `y1` and `x1` are the first row and
            column beyond it, as in a slice.
        height, width: the frame's size in pixels.
        margin: share of the box's longer side to add at each end, rounded up to whole pixels; 0.1
            gives a square 1.2 times as long as the box.

    Returns:
        `(y0, x0, y1, x1)` inside the frame: `frame[y0:y1, x0:x1]` is the crop.

    Raises:
        DataError: the box is empty or reaches out of the frame, or the margin is negative.
    """
    y0, x0, y1, x1, height, width = (int(edge) for edge in (*box, height, width))
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise DataError(
            f"the box (y0, x0, y1, x1) = {(y0, x0, y1, x1)} is empty or reaches out of its frame: "
            f"allowed are 0 <= y0 < y1 <= {height} and 0 <= x0 < x1 <= {width}"
        )
    if not 0 <= margin < math.inf:
        raise DataError(f"the margin is {margin}: allowed is a number from 0 upwards")
    longer = max(y1 - y0, x1 - x0)
    # Round first, as 0.1 * 30 is slightly above 3.
    side = longer + 2 * math.ceil(round(margin * longer, 6))
    side = min(side, max(longer, min(height, width)))
    top, bottom = _place(y0, y1, side, height)
    left, right = _place(x0, x1, side, width)
    return top, left, bottom, right


def _place(start: int, end: int, side: int, length: int) -> tuple[int, int]:
    """Returns the ends of an interval of `side` around the middle of `[start, end)`, shifted into
    `[0, length)`."""
    side = min(side, length)
    first = min(max((start + end - side) // 2, 0), length - side)
    return first, first + side
