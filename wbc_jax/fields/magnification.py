"""The magnification of an image, estimated from its red cells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage
from skimage import feature, segmentation

from wbc_jax.fields import regions, staining

RED_CELL_UM = 7.5
"""Diameter of a red cell in a smear: 7.2 to 7.9 µm (Bain, Blood Cells, 2015)."""
_WINDOW_PX = 768
"""Side of the windows in which red cells are measured."""
_SAMPLE_PX = 384
"""Side to which a window is reduced."""
_MAX_NUCLEUS_PX = 128
"""Largest diameter of a nucleus in a reduced window; above it, the window is reduced further."""
_CLOSE_UP = 0.15
"""Diameter of a close-up's largest nucleus, as a part of the image's longer side."""
_MANY = 60
"""Number of round bodies that are red cells beside a clump of nuclei, not parts of one cell."""
_FEW, _LEAST_RATIO = 12, 0.45
"""Fewer round bodies than `_FEW` are parts of a cell if they are narrower than `_LEAST_RATIO` of
the diameter of a red cell that the largest nucleus suggests. On BCCD's fields the ratio is at least
0.6."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """The magnification of an image.

    Attributes:
        red_cell_px: diameter of a red cell in pixels.
        um_per_px: micrometers per pixel, if a red cell is `RED_CELL_UM` wide.
        red_cells: number of whole, round red cells of about that diameter.
        reliable: there are at least four of them, and they are most of what was measured. If not,
            the diameter may be a guess from the largest nucleus (`red_cells` is then 0).
    """

    red_cell_px: float
    um_per_px: float
    red_cells: int
    reliable: bool


def estimate(image: np.ndarray, stain: staining.Stain) -> Scale | None:
    """Measures red cells in up to five windows of an image, or in the whole of a close-up.

    An image whose largest nucleus spans a seventh of it is a close-up. Reduced to `_SAMPLE_PX`, it
    shows the same at any resolution; in windows of a fixed size, parts of its cells would look like
    red cells.

    Args:
        image: uint8 `[H, W, 3]` RGB.
        stain: from `staining.measure`.

    Returns:
        None if there are neither red cells nor nuclei.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    whole = _measure(image, stain, side, [(0, 0)])
    if side <= _WINDOW_PX:
        return whole.scale()
    down, across = max(height - _WINDOW_PX, 0), max(width - _WINDOW_PX, 0)
    corners = {(down // 2, across // 2)}
    corners |= {(y * down // 4, x * across // 4) for y in (1, 3) for x in (1, 3)}
    windows = _measure(image, stain, _WINDOW_PX, sorted(corners))
    if whole.nucleus_px < _CLOSE_UP * side or len(windows.red_cells) >= _MANY:
        return windows.scale()
    return whole.scale()


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured in some windows, in pixels of the image.

    Attributes:
        red_cells: diameters of round, whole bodies that are not leukocytes, float64 `[N]`.
        nucleus_px: diameter of the largest nucleus, 0 if there is none.
        factor: reduction of the windows.
    """

    red_cells: np.ndarray
    nucleus_px: float
    factor: float

    def scale(self) -> Scale | None:
        """Returns the scale that fits most; None if there are neither red cells nor nuclei."""
        # A leukocyte's nucleus is a little larger than a red cell.
        guess = self.nucleus_px / 1.15
        if not len(self.red_cells) and guess * self.factor < 4:
            return None
        measured = _mode(self.red_cells) if len(self.red_cells) else (guess, 0, 0.0)
        red_cell_px, alike, share = measured
        ratio = red_cell_px / guess if guess > 0 else 1.0
        parts = alike < _FEW and ratio < _LEAST_RATIO
        if parts or (alike < 3 and not 0.6 < ratio < 1.6):
            red_cell_px, alike = guess, 0
        reliable = alike >= 4 and share >= 0.5
        return Scale(red_cell_px, RED_CELL_UM / red_cell_px, alike, reliable)


def _measure(
    image: np.ndarray, stain: staining.Stain, side: int, corners: Sequence[tuple[int, int]]
) -> _Measured:
    """Measures red cells and nuclei in square windows of an image.

    Args:
        image, stain: as in `estimate`.
        side: of the windows, in pixels.
        corners: (top, left) of each window; the image's edge cuts it.
    """
    size = image.shape[:2]
    factor = min(1.0, _SAMPLE_PX / side)
    while True:
        red_cells, nuclei = [], [0.0]  # diameters
        for top, left in corners:
            pixels = image[top : top + side, left : left + side]
            window = (top, left, top + pixels.shape[0], left + pixels.shape[1])
            densities = stain.densities(staining.rescale(pixels, factor), window, size, 1)
            violet = regions.opened(stain.nucleus_pixels(densities), regions.disk(1))
            stained = densities[..., 1] > stain.foreground
            red_cells.append(_round_diameters(stained, violet) / factor)
            bodies, _ = ndimage.label(regions.closed(violet, regions.disk(3)))
            areas = np.bincount(bodies[violet])[1:]
            nuclei.extend(2 * np.sqrt(np.asarray(areas) / np.pi) / factor)
        if max(nuclei) * factor <= _MAX_NUCLEUS_PX:
            return _Measured(np.concatenate(red_cells), max(nuclei), factor)
        factor /= 2


def _round_diameters(stained: np.ndarray, violet: np.ndarray) -> np.ndarray:
    """Returns the diameters of round, whole bodies that are not leukocytes, float64 `[N]`.

    A watershed of the distance transform separates cells that touch.

    Args:
        stained: bool `[H, W]`.
        violet: bool `[H, W]`, pixels of nuclei.
    """
    stained = regions.opened(stained, regions.disk(1))
    stained = ndimage.binary_fill_holes(stained)  # the pale centers of red cells
    depth = regions.inner_distance(stained)
    smooth = cv2.GaussianBlur(depth, (0, 0), 1.5)
    peaks = feature.peak_local_max(smooth, min_distance=4, threshold_abs=3, exclude_border=False)
    if not len(peaks):
        return np.zeros(0)
    markers = np.zeros(stained.shape, np.int32)
    index = np.arange(1, len(peaks) + 1)
    markers[tuple(peaks.T)] = index
    bodies = segmentation.watershed(-smooth, markers, mask=stained)
    area = np.bincount(bodies.ravel(), minlength=len(peaks) + 1)[1:]
    edge = np.concatenate([bodies[0], bodies[-1], bodies[:, 0], bodies[:, -1]])
    violet = regions.dilated(violet, regions.disk(2))
    violet_share = np.bincount(bodies[violet], minlength=len(peaks) + 1)[1:] / np.maximum(area, 1)
    # Area relative to the largest disk inside: 1 for a disk.
    excess = area / (np.pi * regions.maxima(depth, bodies, len(peaks)) ** 2)
    kept = ~np.isin(index, edge) & (violet_share < 0.1) & (excess < 1.7)
    return 2 * np.sqrt(area[kept] / np.pi)


def _mode(diameters: np.ndarray) -> tuple[float, int, float]:
    """Returns the most frequent diameter, the number within a quarter of it, and their share.

    Each body is weighted by its diameter, because platelets and specks are many.
    """
    logs = np.log(diameters)
    kernel = np.exp(-(((logs[:, None] - logs) / 0.12) ** 2) / 2)
    mode = diameters[(kernel @ diameters).argmax()]
    alike = np.abs(logs - np.log(mode)) < math.log(1.25)
    share = float(diameters[alike].sum() / diameters.sum())
    return float(np.median(diameters[alike])), int(alike.sum()), share
