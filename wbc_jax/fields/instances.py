"""Semantic masks → one region per cell.

The segmenter marks the nuclei and the cytoplasm of all cells in a window. The finder knows where
each nucleus is. Each pixel of a mask goes to the nucleus that is nearest within the mask, so that
no pixel belongs to two cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage import segmentation

from wbc_jax.fields.finder import Box, Detection
from wbc_jax.labels import NUCLEUS


def merge_masks(
    size: tuple[int, int],
    windows: Sequence[Box],
    masks: Sequence[np.ndarray],
    cells: Sequence[Detection],
) -> tuple[np.ndarray, np.ndarray]:
    """Merges the masks of windows around single cells into the mask of their field.

    Args:
        size: height and width of the field in pixels.
        windows: one window per cell.
        masks: uint8, 0 background, 1 cytoplasm, 2 nucleus: all cells in each window.
        cells: the cell of each window, from the finder, with its nucleus.

    Returns:
        The field's mask, uint8 `[H, W]`, and its cells' numbers from 1, uint16 `[H, W]`.
    """
    mask, labels = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    # Where two windows claim a pixel, the nearer nucleus gets it, as in a depth buffer.
    nearest = np.full(size, np.inf, np.float16)
    boxes = np.array([cell.box for cell in cells]).reshape(-1, 4)
    seeds = []
    for number, (window, found) in enumerate(zip(windows, masks), 1):
        top, left, bottom, right = window
        overlaps = (boxes[:, :2] < (bottom, right)).all(1) & (boxes[:, 2:] > (top, left)).all(1)
        nuclei = np.zeros(found.shape, np.int32)
        for other in np.flatnonzero(overlaps):
            paste_nucleus(nuclei, window, cells[other], other + 1)
        own = split_mask(found, nuclei) == number
        distance = ndimage.distance_transform_edt(nuclei != number)
        place = np.s_[top:bottom, left:right]
        own &= distance < nearest[place]
        nearest[place][own] = distance[own]
        mask[place][own], labels[place][own] = found[own], number
        seeds.append(nuclei == number)
    for number, (window, seed) in enumerate(zip(windows, seeds), 1):
        place = np.s_[window[0] : window[2], window[1] : window[3]]
        own = labels[place] == number
        pieces, count = ndimage.label(own, np.ones((3, 3)))
        kept = np.unique(pieces[seed & own])
        if count > len(kept) > 0:  # a neighbor has cut pieces off
            lost = own & ~np.isin(pieces, kept)
            mask[place][lost] = labels[place][lost] = 0
    return mask, labels


def split_mask(mask: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Splits a mask among cells whose nuclei are known.

    Two watersheds of the distance from the known nuclei: the first assigns the mask's nucleus
    pixels, the second the cytoplasm. Pixels that are connected with no known nucleus get no cell.

    Args:
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
        nuclei: int32 `[H, W]`: number of the cell whose nucleus is here, 0 none.

    Returns:
        int32 `[H, W]`: number of the cell that each pixel of the mask belongs to, 0 none.
    """
    inner = _flood(nuclei, mask == NUCLEUS)
    return _flood(np.where(inner > 0, inner, nuclei), mask > 0)


def _flood(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Extends the seeds in a mask to all of the mask that is connected with them."""
    seeds = seeds * mask
    if not seeds.any():
        return seeds
    return segmentation.watershed(ndimage.distance_transform_edt(seeds == 0), seeds, mask=mask)


def paste_nucleus(nuclei: np.ndarray, window: Box, cell: Detection, number: int) -> None:
    """Writes a number where a window shows a cell's nucleus.

    Args:
        nuclei: int32, the labels of the window; changed in place.
        window: its box in the field, which overlaps with the cell's.
        cell: from the finder; without a mask of its nucleus the whole box counts.
        number: the value to write.
    """
    shape = (cell.bottom - cell.top, cell.right - cell.left)
    nucleus = np.ones(shape, bool) if cell.nucleus is None else cell.nucleus
    top, left = max(cell.top, window[0]), max(cell.left, window[1])
    bottom, right = min(cell.bottom, window[2]), min(cell.right, window[3])
    shown = nucleus[top - cell.top : bottom - cell.top, left - cell.left : right - cell.left]
    place = np.s_[top - window[0] : bottom - window[0], left - window[1] : right - window[1]]
    nuclei[place][shown] = number
