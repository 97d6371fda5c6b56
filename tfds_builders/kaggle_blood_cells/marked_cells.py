"""Cells of BCCD's frames: those that have a box, and those that only the mask marks."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage import segmentation

from wbc_jax.data import crops
from wbc_jax.labels import BACKGROUND, NUCLEUS, type_name
from wbc_jax.tfds_builders.kaggle_blood_cells.annotations import Box

SPECK = 0.001
"""Regions below this share of the frame are no cells. The smallest cell without a box has 2.1%."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a frame.

    Attributes:
        box: the annotation's, or around the mask.
        region: bool `[H, W]`, its pixels in the mask; None: it has a box and no nucleus in the
            mask.
        number: of its box in the annotation, from 1; 0: it has none.
    """

    box: Box
    region: np.ndarray | None
    number: int = 0


def find(mask: np.ndarray, boxes: Sequence[Box]) -> list[Cell]:
    """Returns the boxed cells in the boxes' order, then the other marked ones from left to right.

    A part of the nucleus belongs to the box that holds most of it, and stained pixels to the
    nearest nucleus they are connected with. So cells that touch are told apart.

    Args:
        mask: uint8 `[H, W]` of a frame, of 0, 1, 2.
        boxes: from `annotations.read_boxes`.
    """
    stained, eight = mask != BACKGROUND, np.ones((3, 3))
    touching, _ = ndimage.label(stained, eight)
    parts, count = ndimage.label(mask == NUCLEUS, eight)
    owners = np.zeros(count + 1, int)
    for part, place in enumerate(ndimage.find_objects(parts), 1):
        pixels = np.argwhere(parts[place] == part) + [side.start for side in place]
        inside = [_inside(pixels, box) for box in boxes]
        best = int(np.argmax(inside)) if boxes else 0
        boxed = boxes and 2 * inside[best] >= len(pixels)
        # Parts without a box are one cell if they are connected.
        owners[part] = best + 1 if boxed else len(boxes) + touching[tuple(pixels[0])]
    away = ndimage.distance_transform_edt(mask != NUCLEUS)
    regions = segmentation.watershed(away, owners[parts], mask=stained)
    cells = []
    for number, box in enumerate(boxes, 1):
        region = regions == number
        cells.append(Cell(box, region if region.any() else None, number))
    found = [regions == owner for owner in np.unique(regions[regions > len(boxes)])]
    others = [Cell(crops.bounding_box(own), own) for own in found if own.mean() >= SPECK]
    return cells + sorted(others, key=lambda cell: (cell.box[1], cell.box[0]))


def describe(cells: Sequence[Cell], label: int) -> str:
    """Returns the cells as JSON, a list of `{"box": [y0, x0, y1, x1], "boxed", "masked", "type"}`.

    Args:
        cells: from `find`.
        label: of the frame's only cell, or -1: then `type` is empty.
    """
    kind = type_name(label) if label >= 0 else ""
    return json.dumps(
        [
            {
                "box": list(cell.box),
                "boxed": cell.number > 0,
                "masked": cell.region is not None,
                "type": kind,
            }
            for cell in cells
        ]
    )


def _inside(pixels: np.ndarray, box: Box) -> int:
    """Returns how many of the (row, column) pairs lie in a box."""
    return int(((pixels >= box[:2]) & (pixels < box[2:])).all(1).sum())
