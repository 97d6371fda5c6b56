"""The windows of an image that the models process: one around each cell, or a crop as it is.

The finder detects leukocytes (`fields.finder`), unless the image is a crop around one cell
(`fields.one_cell`); a plain image has no window (`fields.contrast`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wbc_jax.data import crops, light, orientation
from wbc_jax.errors import DataError
from wbc_jax.fields import contrast, finder
from wbc_jax.fields.finder import Box, Detection, Detections, Scale
from wbc_jax.fields.one_cell import crop_window

FIND_MODES = ("auto", "yes", "no")
"""Whether cells are looked for, in every image, or each image is one cell."""
MAX_CELLS = 2**16 - 1
"""Largest number of cells in an image or a slide, because labels are uint16."""
PixelSize = tuple[float, str]
"""Micrometers per pixel, and the tag of the file that says so."""
_SCALES_DIFFER = 0.2
"""Smallest relative difference of two magnifications that is flagged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The windows of an image that the models are to process.

    Attributes:
        cells: from the finder; empty if the image is one cell.
        windows: one box per cell.
        um_per_px, source, one_cell: as in `Field`.
        scales_differ: the image's red cells suggest another `um_per_px`.
    """

    cells: list[Detection]
    windows: list[Box]
    um_per_px: float | None
    source: str
    scales_differ: bool
    one_cell: bool


def plan(
    image: np.ndarray, known: PixelSize | None, find: str, on_pixels: Callable[[float], None]
) -> Plan:
    """Returns the windows of an image.

    Args:
        image: uint8 `[H, W, 3]`.
        known: micrometers per pixel, if known.
        find: one of `FIND_MODES`.
        on_pixels: called with the number of further pixels in which cells were looked for.

    Raises:
        DataError: the image has more than `MAX_CELLS` cells.
    """
    pixels = image.shape[0] * image.shape[1]
    if find == "no":
        found = Detections([], None)
        on_pixels(pixels)
    else:
        found = finder.find(image, lambda part: on_pixels(part * pixels))
    scale, size = _scale(known, found.scale), image.shape[:2]
    window = {"no": (0, 0, *size), "auto": crop_window(size, found), "yes": None}[find]
    if window is not None:
        if not found.cells and contrast.is_plain(image):
            return Plan([], [], *scale, False)
        return Plan([], [window], *scale, True)
    if len(found.cells) > MAX_CELLS:
        raise DataError(
            f"the image has {len(found.cells)} cells: allowed are {MAX_CELLS}; cut it into pieces"
        )
    windows = [crops.square_crop_box(cell.box, *size, crops.MARGIN) for cell in found.cells]
    return Plan(found.cells, windows, *scale, False)


def squares(images: Sequence[np.ndarray], plans: Sequence[Plan]) -> list[np.ndarray]:
    """Returns the windows of all images, uint8 `[h, w, 3]`."""
    return [
        image[top:bottom, left:right]
        for image, one in zip(images, plans)
        for top, left, bottom, right in one.windows
    ]


def _scale(known: PixelSize | None, found: Scale | None) -> tuple[float | None, str, bool]:
    """Returns the micrometers per pixel, their source, and whether the red cells disagree."""
    seen = found.um_per_px if found is not None and found.reliable else None
    if known is not None:
        return *known, seen is not None and abs(known[0] / seen - 1) > _SCALES_DIFFER
    return seen, "unknown" if seen is None else "red_cells", False


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A window of an image, as the segmenter sees it.

    Attributes:
        box: the window, (top, left, bottom, right).
        position: that it is turned to.
        pixels: uint8 `[h, w, 3]`, in the standard light and that position.
        one_cell: as in `Field`.
    """

    box: Box
    position: orientation.Position
    pixels: np.ndarray
    one_cell: bool


def shown(images: Sequence[np.ndarray], find: str = "auto") -> list[list[Shown]]:
    """Returns what the segmenter is shown of each image: a window for each cell, by its number.

    Args:
        images, find: as in `analyze`.
    """
    plans = [plan(image, None, find, lambda pixels: None) for image in images]
    turns = [orientation.find(square) for square in squares(images, plans)]
    standard = squares(list(map(light.standardize, images)), plans)
    boxes = [(box, one.one_cell) for one in plans for box in one.windows]
    found = [
        Shown(box, turn, orientation.place(square, turn), one_cell)
        for (box, one_cell), turn, square in zip(boxes, turns, standard)
    ]
    return grouped(found, [len(one.windows) for one in plans])


def grouped(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Splits the values of all images into one list per image."""
    rest = iter(values)
    return [list(itertools.islice(rest, count)) for count in counts]


def pixel_sizes(
    count: int, given: float | None, from_files: Sequence[PixelSize | None] | None
) -> list[PixelSize | None]:
    """Returns the known micrometers per pixel of each image, and their source.

    Raises:
        ValueError: a value is not above zero, or there is not one for each image.
    """
    sizes = [None] * count if from_files is None else list(from_files)
    if len(sizes) != count:
        raise ValueError(f"{len(sizes)} pixel_sizes for {count} images: give one for each image")
    for um_per_px, name in [(given, "um_per_px"), *((s and s[0], "pixel_sizes") for s in sizes)]:
        if um_per_px is not None and not 0 < um_per_px < math.inf:
            raise ValueError(f"{name} is {um_per_px}: allowed is a number above zero")
    return sizes if given is None else [(given, "given")] * count
