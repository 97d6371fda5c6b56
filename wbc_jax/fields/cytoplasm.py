"""The cells around known nuclei, by the colors of their cytoplasm.

All lengths are relative to the diameter of the image's red cells.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage import segmentation

from wbc_jax.fields import regions

_REACH = 1.1
"""Farthest cytoplasm from its nucleus, in diameters of a red cell."""
BLUR = 0.06
"""Width of a cell's blurred edge that colors do not show, in diameters of a red cell."""
_BIN, _BINS, _FIRST = 0.025, 24, -0.05
"""Color histograms: width, number and start of the bins of each optical density."""


def leukocyte_pixels(
    densities: np.ndarray, nuclei: np.ndarray, foreground: float, red_cell_px: float
) -> np.ndarray:
    """Finds nuclei, and colors near them that red cells and background do not have.

    Compares smoothed color histograms: near nuclei, of stained pixels farther away, and of
    unstained pixels farther away (Swain and Ballard 1991). Then takes the first histogram again
    from the pixels found.

    Args:
        densities: float32 `[H, W, 3]`, optical densities.
        nuclei: bool `[H, W]`.
        foreground: lowest density in green of stained pixels.
        red_cell_px: diameter of a red cell in pixels.

    Returns:
        bool `[H, W]`.
    """
    if not nuclei.any():
        return nuclei
    levels = np.clip(((densities - _FIRST) / _BIN).astype(int), 0, _BINS - 1)
    colors = np.ravel_multi_index(tuple(np.moveaxis(levels, -1, 0)), (_BINS,) * 3)
    distance = cv2.distanceTransform((~nuclei).astype(np.uint8), cv2.DIST_L2, 5)
    outside = distance > 1.2 * red_cell_px
    if np.count_nonzero(outside) < red_cell_px**2:
        outside = distance >= np.quantile(distance, 0.8)
    stained = densities[..., 1] > foreground
    # The maximum gives both equal weight, because red cells may crowd around a nucleus.
    away = np.maximum(
        _frequencies(colors[outside & stained]), _frequencies(colors[outside & ~stained])
    )
    possible = np.abs(densities).max(-1) > 0.6 * foreground
    possible &= distance < _REACH * red_cell_px
    leukocytes = distance < 0.25 * red_cell_px
    for _ in range(3):
        near = _frequencies(colors[leukocytes])
        probability = (near / (near + away))[colors].astype(np.float32)
        smooth = cv2.GaussianBlur(probability, (0, 0), 0.06 * red_cell_px)
        leukocytes = (smooth > 0.5) & possible | nuclei
    return leukocytes


def _frequencies(colors: np.ndarray) -> np.ndarray:
    """Returns the share of each color, smoothed and never 0."""
    counts = np.bincount(colors, minlength=_BINS**3).reshape((_BINS,) * 3).astype(np.float32)
    return ndimage.gaussian_filter(counts, 1.0).ravel() / max(1, len(colors)) + 1e-6


def label_cells(leukocytes: np.ndarray, nuclei: np.ndarray, red_cell_px: float) -> np.ndarray:
    """Extends each nucleus to its whole cell.

    Args:
        leukocytes: bool `[H, W]`, from `leukocyte_pixels`.
        nuclei: int32 `[H, W]`, labels from 1.
        red_cell_px: diameter of a red cell in pixels.

    Returns:
        int32 `[H, W]`: each cell with the label of its nucleus.
    """
    cells = np.zeros_like(nuclei)
    nearest = segmentation.expand_labels(nuclei, _REACH * red_cell_px)
    nuclei_and_rim = segmentation.expand_labels(nuclei, BLUR * red_cell_px)
    # Around each cell alone: what is farther away than the disks reach changes nothing.
    margin = 4 * round(0.2 * red_cell_px) + 4
    for label, place in enumerate(ndimage.find_objects(nearest), 1):
        if place is None:
            continue
        place = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in place)
        nucleus = nuclei_and_rim[place] == label
        own = (nearest[place] == label) & leukocytes[place] | nucleus
        mask = regions.closed(own, regions.disk(0.06 * red_cell_px))
        # Bridges to stain nearby are narrower than a cell.
        mask = regions.opened(ndimage.binary_fill_holes(mask), regions.disk(0.2 * red_cell_px))
        mask |= nucleus
        pieces, _ = ndimage.label(mask)
        mask = np.isin(pieces, np.unique(pieces[nuclei[place] == label]))
        window = cells[place]
        window[mask & ((window == 0) | nucleus)] = label
    return cells
