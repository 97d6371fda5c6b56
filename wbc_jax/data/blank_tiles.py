"""Tiles of a slide that have one color alone, which no camera gives: missing, or damaged."""

from __future__ import annotations

import itertools
import math

import numpy as np

from wbc_jax.data.slide import Box, Slide
from wbc_jax.errors import DataError

_LEAST_PART_PX = 64
_ALIKE = 16
"""Gray levels by which a coarser level may differ from a tile of one color that it shows, too."""


def check(slide: Slide, box: Box, pixels: np.ndarray, overview: np.ndarray, coarse: bool) -> None:
    """Checks that no tile of a part of a slide has one color.

    Args:
        slide: the slide.
        box: the part, in pixels of the finest level.
        pixels: uint8 `[h, w, 3]`, the part.
        overview: uint8 `[h, w, 3]`, a small picture of the whole slide.
        coarse: the overview is of a coarser level, so that it does not show the same damage.

    Raises:
        DataError: a tile has one color, and the overview does not show it; names its place.
    """
    top, left, bottom, right = box
    high, wide = tile_size = slide.levels[0].tile
    for y, x in itertools.product(
        range(top // high * high, bottom, high), range(left // wide * wide, right, wide)
    ):
        part = max(y, top), max(x, left), min(y + high, bottom), min(x + wide, right)
        tile = pixels[part[0] - top : part[2] - top, part[1] - left : part[3] - left]
        # A whole tile, or enough of it where a coarser level can bear witness.
        least = (_LEAST_PART_PX,) * 2 if coarse else tile_size
        if tile.shape[0] < min(high, least[0]) or tile.shape[1] < min(wide, least[1]):
            continue
        if (tile[0] != tile[0, 0]).any() or (tile != tile[0, 0]).any():
            continue
        # An overexposed scan shows empty glass in one color; a coarser level then does, too.
        scale = overview.shape[0] / slide.size[0]
        y0, x0, y1, x1 = (side * scale for side in part)
        there = overview[math.ceil(y0) : int(y1), math.ceil(x0) : int(x1)].astype(int)
        if coarse and np.abs(there - tile[0, 0]).max(initial=0) < _ALIKE:
            continue
        color = ", ".join(map(str, tile[0, 0].tolist()))
        raise DataError(
            f"{slide.path}: the tile at x {x} to {x + wide}, y {y} to {y + high} has one color "
            f"({color}), so it is missing or damaged: copy the slide again, or scan it again"
        )
