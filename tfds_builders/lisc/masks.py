"""LISC's masks: their place on the frame, their values, their cells."""

import collections
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath
from skimage import measure

from wbc_jax.data import reading
from wbc_jax.data.images import describe_values, read_image, read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CYTOPLASM, IGNORE, NUCLEUS

MAX_BORDER = 8
"""Pixels that a mask may lack at each edge of its frame (712 x 568 for 720 x 576 lacks 4)."""

MIN_CELL_PIXELS = 100
"""Smaller islands in a mask are slips of the pen: ignored and counted, never cropped."""

Box = tuple[int, int, int, int]
"""`(y0, x0, y1, x1)` in pixels."""

Order = dict[tuple[int, int], tuple[int, int]]
"""By a cell's two mask values (ascending), the same two as (cytoplasm, nucleus)."""


def read_frame(
    image_file: epath.PathLike, mask_file: epath.PathLike
) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads a frame and its mask, and pads the mask to the frame's size.

    Returns:
        Pixels, uint8 `[H, W, 3]`; the mask's own values, uint8 `[H, W]`; and the number of pixels
        by which each edge of the mask was padded with 0.

    Raises:
        DataError: an unreadable file, or a mask that neither has its frame's size nor lacks the
            same few pixels at all four edges.
    """
    pixels = read_image(image_file)
    height, width = pixels.shape[:2]
    gray = read_mask_file(mask_file)
    lack = (height - gray.shape[0], width - gray.shape[1])
    border = lack[0] // 2
    if lack[0] != lack[1] or lack[0] % 2 or not 0 <= border <= MAX_BORDER:
        reading.check_same_size(mask_file, gray, (height, width))
    return pixels, np.pad(gray, border), border


def value_order(files: Iterable[tuple[epath.PathLike, epath.PathLike]]) -> Order:
    """Decides which of the two values in a cell's mask is the nucleus.

    The nucleus is by far the darker part of nearly every cell in the image's green channel. The
    majority of a class's cells decides, so that an odd cell cannot swap the values of its own mask.

    Args:
        files: image and mask file of each frame of one class. Unreadable ones are skipped.

    Returns:
        The order of each pair of values.
    """
    votes = collections.Counter()
    for image_file, mask_file in files:
        try:
            pixels, gray, _ = read_frame(image_file, mask_file)
        except DataError:
            continue  # reported when its record is made
        green = pixels[..., 1]
        for _, region, values in _islands(gray):
            if len(values) == 2:
                low, high = (green[region][gray[region] == value].mean() for value in values)
                votes[values] += 1 if high <= low else -1
    return {pair: pair if vote >= 0 else pair[::-1] for pair, vote in votes.items()}


def classes_and_cells(
    path: epath.PathLike, gray: np.ndarray, order: Order
) -> tuple[np.ndarray, list[tuple[Box, bool]], int]:
    """Converts a frame's mask to the project's classes, and finds its cells.

    Args:
        path: the mask's file, for messages.
        gray: the mask's own values, uint8 `[H, W]`: 0 background; a cell is a connected island of
            other values.
        order: from `value_order`.

    Returns:
        uint8 `[H, W]` of 0, 1, 2 and 255; for each cell from top to bottom its box, and whether it
        is cell-only (an island of one value does not show where the nucleus is, so it becomes 255
        ignore); and the number of specks (islands below `MIN_CELL_PIXELS`, ignored as well).

    Raises:
        DataError: a cell of more than two values.
    """
    mask = np.zeros_like(gray)
    cells, specks = [], 0
    for box, region, values in _islands(gray, least=1):
        size = np.count_nonzero(region)
        if size < MIN_CELL_PIXELS:
            specks += 1
            mask[region] = IGNORE
            continue
        if len(values) > 2:
            counts = {value: int(np.count_nonzero(gray[region] == value)) for value in values}
            raise DataError(
                f"{path}: the cell at row {box[0]}, column {box[1]} has the mask values "
                f"{describe_values(counts)}: allowed are 0 background and at most two "
                "others in a cell, nucleus and cytoplasm; redraw or fetch the mask again"
            )
        if len(values) == 1:
            mask[region] = IGNORE
        else:
            cytoplasm, nucleus = order[values]
            mask[region & (gray == cytoplasm)] = CYTOPLASM
            mask[region & (gray == nucleus)] = NUCLEUS
        cells.append((box, len(values) == 1))
    return mask, cells, specks


def _islands(
    gray: np.ndarray, least: int = MIN_CELL_PIXELS
) -> Iterator[tuple[Box, np.ndarray, tuple[int, ...]]]:
    """Yields (box, pixels as bool `[H, W]`, values) of each island of at least `least` pixels."""
    labelled = measure.label(gray > 0, connectivity=2)
    for island in measure.regionprops(labelled):
        if island.num_pixels >= least:
            region = labelled == island.label
            values = tuple(int(value) for value in np.unique(gray[region]))
            yield tuple(int(edge) for edge in island.bbox), region, values
