"""The nuclei of a field, from the pixels that have a nucleus's color.

Nuclei that touch are separated, and the lobes of one nucleus are joined. All lengths are relative
to the diameter of the image's red cells.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import ndimage
from skimage import measure, morphology, segmentation

from wbc_jax.fields import regions

_MIN_AREA = 0.3
"""Smallest nucleus, in areas of a red cell."""
_MIN_CUT_AREA = 0.2
"""The same if the image's edge cuts the nucleus."""
_MAX_LOBE_GAP = 0.45
"""Largest gap between lobes of one nucleus, in diameters of a red cell."""


def split(mask: np.ndarray, red_cell_px: float) -> np.ndarray:
    """Labels nuclei and separate lobes; whole nuclei that touch get different labels.

    Args:
        mask: bool `[H, W]`, from `staining.Stain.nucleus_pixels`.
        red_cell_px: diameter of a red cell in pixels of the mask.

    Returns:
        int32 `[H, W]`, 1, 2, … without gaps; 0 elsewhere.
    """
    mask = ndimage.binary_fill_holes(regions.opened(mask, regions.disk(0.05 * red_cell_px)))
    bodies, _ = ndimage.label(mask)
    mask &= (np.bincount(bodies.ravel()) > int(0.03 * red_cell_px**2))[bodies]
    smooth = cv2.GaussianBlur(regions.inner_distance(mask), (0, 0), 0.05 * red_cell_px)
    # A nucleus of its own is wide, and a neck separates it from others.
    peaks = _peaks(smooth, 0.12 * red_cell_px, 0.38 * red_cell_px)
    markers, marked = ndimage.label(peaks, np.ones((3, 3)))
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    peaks_in = np.zeros(count + 1, int)
    np.add.at(peaks_in, regions.maxima(labels, markers, marked).astype(int), 1)
    several = np.flatnonzero(peaks_in[1:] > 1) + 1
    if len(several):
        inside = np.isin(labels, several)
        pieces = segmentation.watershed(-smooth, np.where(inside, markers, 0), mask=inside)
        labels = np.where(inside, pieces + count, labels)
    return segmentation.relabel_sequential(labels)[0].astype(np.int32)


def _peaks(height: np.ndarray, rise: float, least: float) -> np.ndarray:
    """Returns the pixels of h-maxima: those that rise by `rise` above the way to a higher one.

    Args:
        height: float32 `[H, W]`.
        rise: how far one descends from a peak before one can climb higher.
        least: lowest peak to return.

    Returns:
        bool `[H, W]`.
    """
    # What is lower than the foot of the lowest peak changes none. Level there and cut away, the
    # sort of all pixels in `h_maxima` is of few.
    foot = least - 1.01 * rise
    found = np.zeros(height.shape, bool)
    places = ndimage.find_objects((height > foot).astype(np.uint8))
    if places and places[0] is not None:
        place = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in places[0])
        part = np.maximum(height[place], np.float32(foot))
        found[place] = (morphology.h_maxima(part, rise) > 0) & (part > least)
    return found


def join_lobes(lobes: np.ndarray, leukocytes: np.ndarray, red_cell_px: float) -> np.ndarray:
    """Joins the lobes of one nucleus, the nearest first.

    Lobes are joined by their gap, their common size, and the cytoplasm between them.

    Args:
        lobes: int32 `[H, W]`, from `split`.
        leukocytes: bool `[H, W]`, from `cytoplasm.leukocyte_pixels`.
        red_cell_px: diameter of a red cell in pixels.

    Returns:
        int32 `[H, W]`, one label per nucleus; some numbers may be missing.
    """
    found = measure.regionprops(lobes)
    rims = []
    for lobe in found:
        rim = lobe.image & ~ndimage.binary_erosion(lobe.image)
        rims.append((np.argwhere(rim) + lobe.bbox[:2]).astype(np.float32))
    gaps = []
    for i, first in enumerate(found):
        for j, second in enumerate(found[:i]):
            a, b = first.bbox, second.bbox
            apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
            if apart <= _MAX_LOBE_GAP * red_cell_px:
                gap = math.sqrt(((rims[i][:, None] - rims[j]) ** 2).sum(-1).min())
                if gap <= _MAX_LOBE_GAP * red_cell_px:
                    gaps.append((gap, j, i))
    group = np.arange(len(found))
    areas = np.array([lobe.area for lobe in found], float)
    red_cell_area = np.pi * red_cell_px**2 / 4
    for gap, i, j in sorted(gaps):
        i, j = group[i], group[j]
        if i == j:
            continue
        both = np.concatenate([rims[i], rims[j]])
        span = 2 * cv2.minEnclosingCircle(both)[1]
        if span > 2.85 * red_cell_px:
            continue
        smaller = min(areas[i], areas[j])
        # Lobes have the cytoplasm of their cell between them; two cells have a notch.
        outside = _share_outside(both, leukocytes)
        small_and_near = smaller < 0.5 * red_cell_area and gap < 0.2 * red_cell_px
        limit = 0.09 if smaller > 0.6 * red_cell_area or span > 2.4 * red_cell_px else 0.25
        if smaller > 0.85 * red_cell_area:  # each could be a nucleus of its own
            limit = 0.06
        if outside > limit and not small_and_near:
            continue
        rims[i], areas[i] = both, areas[i] + areas[j]
        group[group == j] = i
    return np.concatenate([[0], group + 1]).astype(np.int32)[lobes]


def _share_outside(rim: np.ndarray, leukocytes: np.ndarray) -> float:
    """Returns the share of the convex hull of some lobes that lies outside of leukocytes.

    Args:
        rim: float32 `[N, 2]`, (y, x) of the lobes' outlines.
        leukocytes: bool `[H, W]`, which contains all lobes.
    """
    low, high = rim.min(0).astype(int), rim.max(0).astype(int) + 1
    hull = np.zeros(high - low, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull((rim - low)[:, ::-1].astype(np.int32)), 1)
    outside = (hull > 0) & ~leukocytes[low[0] : high[0], low[1] : high[1]]
    return np.count_nonzero(outside) / max(1, np.count_nonzero(hull))


def drop_small(labels: np.ndarray, red_cell_px: float) -> np.ndarray:
    """Removes what is too small for a leukocyte's nucleus, such as platelets.

    Args:
        labels: int32 `[H, W]`, from `join_lobes`.
        red_cell_px: diameter of a red cell in pixels.

    Returns:
        int32 `[H, W]`, the others' labels 1, 2, … without gaps.
    """
    height, width = labels.shape
    kept = np.zeros(int(labels.max()) + 1, np.int32)
    for nucleus in measure.regionprops(labels):
        top, left, bottom, right = nucleus.bbox
        cut = min(top, left) == 0 or bottom == height or right == width
        least = _MIN_CUT_AREA if cut else _MIN_AREA
        if nucleus.area >= least * np.pi * red_cell_px**2 / 4:
            kept[nucleus.label] = kept.max() + 1
    return kept[labels]
