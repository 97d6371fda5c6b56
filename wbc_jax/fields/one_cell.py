"""Whether an image is a crop around one cell or a field."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from wbc_jax.data import crops
from wbc_jax.fields.finder import Box, Detection, Detections

_MAX_CROP_RED_CELLS = 8.0
"""Longest side of a crop around one cell, in diameters of a red cell."""
_MAX_CROP_PX = 4096
_MAX_CROP_ASPECT = 1.2
_MAX_OFF_CENTER = 0.15
"""Largest distance of a crop's cell from the crop's center, as a part of the crop's sides."""
_MIN_CROP_SHARE = 0.22
"""Shortest longer side of a crop's cell, as a part of the crop's shorter side. It is at least 0.24
on 60 crops each of JTSC, CellaVision, PBC, ALL-IDB and Raabin."""
_MAX_WINDOW = 2.5
"""Longest side of the part of a crop that the models see, in longer sides of its cell: as in the
crops that they were trained on, the cell spans at least two fifths."""
_OWN_NUCLEUS = 0.85
"""Smallest nucleus, in areas of a red cell, that is no lobe of the nucleus beside it."""
_PLATELET = 0.35
"""Largest platelet, as a part of the nucleus of the crop's cell, where the scale is not known."""


def crop_window(shape: tuple[int, ...], found: Detections) -> Box | None:
    """Returns the square that the models are to see of a crop around one cell; None for a field.

    A crop is nearly square, at most 4096 pixels and eight red cells wide. A cell in its middle
    fills a good part of it, and all other cells are cut by its frame. Cells whose boxes touch are
    one whose lobes were found one by one, unless the scale is known and two of them have a nucleus
    of a leukocyte's size. Where the scale is not known, other small nuclei may be platelets. An
    image without a cell is a crop only if it has no red cells either.

    Args:
        shape: the image's shape.
        found: from `finder.find`, for this image.

    Returns:
        The whole image, or a square around the cell if it is small in the image.
    """
    height, width = shape[:2]
    short, long = sorted((height, width))
    if long > min(_MAX_CROP_ASPECT * short, _MAX_CROP_PX):
        return None
    scale = found.scale if found.scale and found.scale.reliable else None
    if scale and long > _MAX_CROP_RED_CELLS * scale.red_cell_px:
        return None
    if not found.cells:
        return (0, 0, height, width) if scale is None else None
    bodies = _bodies(found.cells)
    unions = [_union(body) for body in bodies]
    off_center = [
        math.hypot((top + bottom) / 2 / height - 0.5, (left + right) / 2 / width - 0.5)
        for top, left, bottom, right in unions
    ]
    middle = off_center.index(min(off_center))
    top, left, bottom, right = unions[middle]
    if off_center[middle] >= _MAX_OFF_CENTER:
        return None
    if max(bottom - top, right - left) < _MIN_CROP_SHARE * short:
        return None
    if scale:
        least = _OWN_NUCLEUS * math.pi * scale.red_cell_px**2 / 4
        if sum(cell.nucleus_px >= least for cell in bodies[middle]) > 1:
            return None
    nuclei = [sum(cell.nucleus_px for cell in body) for body in bodies]
    platelet = 0.0 if scale else _PLATELET * nuclei[middle]
    for i, body in enumerate(bodies):
        whole = not any(cell.touches_frame for cell in body)
        if i != middle and whole and nuclei[i] >= platelet:
            return None
    side = max(bottom - top, right - left)
    if _MAX_WINDOW * side >= short:
        return 0, 0, height, width
    return crops.square_crop_box(unions[middle], height, width, (_MAX_WINDOW - 1) / 2)


def _bodies(cells: Sequence[Detection]) -> list[list[Detection]]:
    """Groups whole cells whose boxes touch, directly or through others; each cut cell is alone."""
    bodies: list[list[Detection]] = []
    for cell in cells:
        if not cell.touches_frame:
            near = [body for body in bodies if any(_touch(cell.box, one.box) for one in body)]
            bodies = [body for body in bodies if body not in near]
            bodies.append([*itertools.chain(*near), cell])
    return bodies + [[cell] for cell in cells if cell.touches_frame]


def _touch(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _union(cells: Sequence[Detection]) -> Box:
    """Returns the smallest box around some cells."""
    boxes = np.array([cell.box for cell in cells])
    top, left, bottom, right = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    return top, left, bottom, right
