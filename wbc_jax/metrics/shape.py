"""Shape of nucleus and cell, by scikit-image on the host."""

import dataclasses

import numpy as np

from wbc_jax.labels import CYTOPLASM, NUCLEUS
from wbc_jax.metrics.checks import check_cell_mask

MIN_LOBE_SHARE = 0.05
"""A connected component with a smaller share of the nucleus area is a speck, not a lobe."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Measures of one region (nucleus or whole cell), one entry per image; NaN where it is empty.

    Attributes:
        area_px: float64 `[N]`, 0 where the region is empty.
        area_um2: float64 `[N]`; NaN where µm per pixel is unknown.
        perimeter_px: float64 `[N]`, Cauchy–Crofton estimate from four directions
            (`skimage.measure.perimeter_crofton`).
        circularity: float64 `[N]`, 4π area / perimeter²: 1 for a disc, less for lobes. The
            perimeter of a disc is accurate to 1 % from a radius of 15 pixels up, that of a square
            along the axes is 5 % too short; very small regions can exceed 1.
        solidity: float64 `[N]`, area / area of the convex hull.
        eccentricity: float64 `[N]`, of the ellipse with the same second moments: from 0 (round)
            to 1.
    """

    area_px: np.ndarray
    area_um2: np.ndarray
    perimeter_px: np.ndarray
    circularity: np.ndarray
    solidity: np.ndarray
    eccentricity: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class CellShape:
    """Shapes of nucleus and cell.

    Attributes:
        nucleus: shape of all nucleus pixels together, without specks.
        cell: shape of nucleus and cytoplasm together.
        lobes: int64 `[N]`, connected components of the nucleus without specks. Lobes joined by a
            strand one pixel wide count as one, so a neutrophil's number is a lower bound.
    """

    nucleus: Shape
    cell: Shape
    lobes: np.ndarray


def cell_shape(mask, um_per_px=None, min_lobe_share: float = MIN_LOBE_SHARE) -> CellShape:
    """Measures nucleus and cell of each mask.

    Args:
        mask: integer `[N, H, W]` (1 cytoplasm, 2 nucleus).
        um_per_px: µm per pixel of the mask, a number or `[N]`; None or NaN where unknown.
        min_lobe_share: components of the nucleus (8-connected) with less than this share of its
            pixels are left out of the nucleus shape and of the lobe count.

    Raises:
        ValueError: not three axes, a value other than 0, 1, 2 and 255, a size that is not positive
            and finite, or a share not in [0, 1].
    """
    mask = check_cell_mask(mask)
    if not 0 <= min_lobe_share <= 1:
        raise ValueError(f"min_lobe_share is {min_lobe_share}; it must be in [0, 1].")
    sizes = np.broadcast_to(
        np.asarray(np.nan if um_per_px is None else um_per_px, float), len(mask)
    )
    if wrong := sizes[(sizes <= 0) | np.isinf(sizes)].tolist():
        raise ValueError(
            f"um_per_px is {wrong[0]}; it must be positive and finite, or NaN if unknown."
        )
    nuclei, lobes = [], []
    for nucleus in mask == NUCLEUS:
        kept, number = _without_specks(nucleus, min_lobe_share)
        nuclei.append(kept)
        lobes.append(number)
    cells = (mask == NUCLEUS) | (mask == CYTOPLASM)
    return CellShape(_shape(nuclei, sizes), _shape(cells, sizes), np.asarray(lobes, np.int64))


def _without_specks(region: np.ndarray, min_share: float) -> tuple[np.ndarray, int]:
    from skimage import measure  # slow to import, and the other metrics do not need it

    labels, number = measure.label(region, connectivity=2, return_num=True)
    areas = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    kept = np.flatnonzero(areas >= min_share * areas.sum()) + 1
    return np.isin(labels, kept), len(kept)


def _shape(regions, um_per_px: np.ndarray) -> Shape:
    measured = np.array([_measure(region) for region in regions]).reshape(-1, 4)
    area, perimeter, solidity, eccentricity = measured.T
    with np.errstate(invalid="ignore", divide="ignore"):
        circularity = np.where(area > 0, 4 * np.pi * area / perimeter**2, np.nan)
    return Shape(area, area * um_per_px**2, perimeter, circularity, solidity, eccentricity)


def _measure(region: np.ndarray) -> tuple[float, float, float, float]:
    from skimage import measure

    # Crofton's lines must leave the region before the image ends.
    found = measure.regionprops(np.pad(region, 1).astype(np.uint8))
    if not found:
        return 0.0, np.nan, np.nan, np.nan
    (whole,) = found
    return (
        float(whole.area),
        float(whole.perimeter_crofton),
        float(whole.solidity),
        float(whole.eccentricity),
    )
