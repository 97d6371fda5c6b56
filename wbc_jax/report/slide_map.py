"""The map of a slide: which regions were looked at, which were left out, and where cells are."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from wbc_jax.fields.finder import Box
from wbc_jax.fields.smear import EDGE, THICK
from wbc_jax.report import overlays

LONGEST_PX = 1200
COLORS = {
    "looked_at": (0, 114, 178),
    EDGE: (150, 160, 172),
    THICK: (70, 74, 82),
    "damaged": (213, 94, 0),
    "cell": (230, 0, 0),
}
"""RGB of the outlines of regions that were looked at, the shades of those that were left out, the
cross of damaged ones, and the dots of cells."""
_SHADE = 0.6
"""Part of a left out region's picture that its shade covers."""


def draw(
    overview: np.ndarray,
    size: tuple[int, int],
    regions: Sequence[tuple[Box, str]],
    cells: Sequence[tuple[float, float]],
) -> bytes:
    """Draws the map as JPEG.

    Args:
        overview: uint8 `[h, w, 3]`, a small picture of the slide.
        size: the slide's height and width.
        regions: core of each region in pixels of the slide, and what became of it: `looked_at`,
            `damaged`, or its kind.
        cells: centers (y, x) in pixels of the slide.
    """
    picture = overlays.resize(overview, min(LONGEST_PX, max(LONGEST_PX // 2, *overview.shape[:2])))
    down, across = picture.shape[0] / size[0], picture.shape[1] / size[1]
    width = max(1, round(max(picture.shape) / 600))
    for (top, left, bottom, right), what in regions:
        y0, x0, y1, x1 = (
            *(round(top * down), round(left * across)),
            *(round(bottom * down), round(right * across)),
        )
        if what in (EDGE, THICK):
            part = picture[y0:y1, x0:x1]
            part[:] = ((1 - _SHADE) * part + _SHADE * np.array(COLORS[what])).astype(np.uint8)
        elif what == "looked_at":
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), COLORS[what], width)
        elif what == "damaged":
            for start, end in (((x0, y0), (x1 - 1, y1 - 1)), ((x1 - 1, y0), (x0, y1 - 1))):
                cv2.line(picture, start, end, COLORS[what], 2 * width, cv2.LINE_AA)
    for y, x in cells:
        place = (round(x * across), round(y * down))
        cv2.circle(picture, place, 2 * width + 1, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, place, 2 * width, COLORS["cell"], -1, cv2.LINE_AA)
    return overlays.jpeg(picture, quality=85)
