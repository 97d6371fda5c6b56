"""The cells of a slide: each once, in pixels of the slide.

A cell belongs to the region in whose core its center lies. Two neighbors may see the center of a
cell on their border a little differently, so that both or none would take it: each also takes cells
that are up to `_BORDER_UM` outside, in a region that is visited as well, unless that has already
taken the cell.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.fields.cells import Cell, Field
from wbc_jax.fields.finder import Box
from wbc_jax.fields.smear import Region

_BORDER_UM, _BORDER_PX = 2.0, 8
_SAME_CELL = 0.3
"""Two boxes with this IoU or more are one cell."""
_BIN = 256


class Taken:
    """The boxes of the cells that are taken, in pixels of the slide.

    Attributes:
        centers: (y, x) of each.
    """

    def __init__(self) -> None:
        self._boxes: dict[tuple[int, int], list[Box]] = collections.defaultdict(list)
        self.centers: list[tuple[float, float]] = []

    def add(self, box: Box) -> bool:
        """Notes a cell's box, unless its cell is known; returns whether it is new."""
        y, x = (box[0] + box[2]) // 2 // _BIN, (box[1] + box[3]) // 2 // _BIN
        near = itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
        if any(
            _iou(box, one) >= _SAME_CELL for place in near for one in self._boxes.get(place, ())
        ):
            return False
        self._boxes[y, x].append(box)
        self.centers.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        return True


def own(region: Region, field: Field, visited: Sequence[Region], um_per_px: float | None) -> Field:
    """Returns a field without the cells whose centers lie outside of its region's core.

    Args:
        region: the region.
        field: what was found in its window.
        visited: all regions that are visited.
        um_per_px: of the slide; None: not known.
    """
    border = _BORDER_PX if um_per_px is None else _BORDER_UM / um_per_px
    kept = []
    for i, cell in enumerate(field.cells):
        y = region.window[0] + (cell.top + cell.bottom) / 2
        x = region.window[1] + (cell.left + cell.right) / 2
        near = _inside(y, x, region.core, border)
        # Beyond the border, only what another region that is visited may miss.
        if _inside(y, x, region.core) or (
            near and any(_inside(y, x, other.core) for other in visited)
        ):
            kept.append(i)
    return selected(field, kept, 0)


def selected(field: Field, kept: Sequence[int], start: int) -> Field:
    """Returns a field with some of its cells, numbered from `start` + 1."""
    numbers = np.zeros(len(field.cells) + 1, np.uint16)
    cells = []
    for new, i in enumerate(kept, start + 1):
        numbers[field.cells[i].cell] = new
        cells.append(dataclasses.replace(field.cells[i], cell=new))
    mask, labels = field.mask, field.labels
    if mask is not None and labels is not None:
        labels = numbers[labels]
        mask = np.where(labels > 0, mask, 0).astype(np.uint8)
    outputs = None if field.outputs is None else field.outputs.take(list(kept))
    return dataclasses.replace(field, cells=cells, mask=mask, labels=labels, outputs=outputs)


def shifted(cell: Cell, region: Region) -> Cell:
    """Returns a cell in pixels of the slide."""
    down, across = region.window[:2]
    return dataclasses.replace(
        cell,
        top=cell.top + down,
        left=cell.left + across,
        bottom=cell.bottom + down,
        right=cell.right + across,
    )


def shifted_row(row: Mapping[str, Any], region: Region) -> dict[str, Any]:
    """Returns a cell's row with its box in pixels of the slide."""
    down, across = region.window[:2]
    moved = {"top": down, "bottom": down, "left": across, "right": across}
    return {**row, **{side: row[side] + by for side, by in moved.items()}}


def _inside(y: float, x: float, box: Box, border: float = 0.0) -> bool:
    """Returns whether a point lies in a box that is wider by a border on all sides."""
    top, left, bottom, right = box
    return top - border <= y < bottom + border and left - border <= x < right + border


def _iou(one: Box, other: Box) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, height) * max(0, width)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return both / (areas - both) if areas > both else 0.0
