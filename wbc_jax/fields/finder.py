"""A box around each leukocyte of a field, found by color alone.

The finder uses no network. It measures colors as optical densities relative to the image's own
light, and lengths in diameters of the image's red cells, so that it assumes no stain, camera or
magnification:

1. `staining`: fits a quadratic surface of light to the unstained pixels. Pixels that are stained
   but not violet give the color of red cells.
2. `magnification`: separates round red cells by a watershed of the distance transform; their most
   frequent diameter is the unit of length. The image is then resized to 30 pixels per red cell.
3. `nuclei`: pixels more violet than a pile of red cells that absorbs as much light, of two cells at
   most. Round bodies that touch are separated where the distance transform has a neck. Lobes of
   one nucleus are joined by their gap, their common size, and the cytoplasm between them. Anything
   smaller than three tenths of a red cell (platelets, stain) is dropped.
4. `cytoplasm`: around each nucleus, the colors that are more frequent near nuclei than among the
   red cells and the background farther away.

The constants, in red cells and optical densities, were chosen on the development part of BCCD (half
of its fields, by a hash of their names: `evaluate.detection.subset_of`) and training cells of JTSC,
CellaVision and Raabin. Recall and precision at IoU 0.5 are 0.985 and 0.940 on the development part,
0.994 and 0.965 on the rest, 0.922 and 0.880 on BCD, whose stain differs most. docs/detection.md has
intervals, failures and the history of the test sets; `python -m wbc_jax.detect --score` prints the
scores.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from concurrent import futures

import numpy as np
from skimage import measure

from wbc_jax.data import crops
from wbc_jax.data.images import check_image
from wbc_jax.fields import cytoplasm, magnification, nuclei, staining
from wbc_jax.fields.magnification import Scale

RED_CELL_PX = 30
"""Diameter of a red cell in pixels at the resolution at which cells are looked for."""
_MIN_SIDE = 16
"""Shortest side of an image, in pixels, in which cells are looked for."""
_TILE = 1024
"""Side of a tile in pixels, at `RED_CELL_PX`."""
_OVERLAP = 4
"""Overlap of tiles in red cells: more than a leukocyte's diameter."""

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """A leukocyte of a field.

    Attributes:
        top, left, bottom, right: the whole cell in pixels, half open: `image[top:bottom,
            left:right]`.
        nucleus_px: area of the nucleus in pixels of the image, all lobes together.
        score: 0 to 1, higher for larger and more violet nuclei; not a probability.
        touches_frame: the cell reaches the image's edge, so the edge may cut it.
        nucleus: bool `[bottom - top, right - left]`, the nucleus's pixels in the box; None if they
            were not kept.
    """

    top: int
    left: int
    bottom: int
    right: int
    nucleus_px: int
    score: float
    touches_frame: bool
    nucleus: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def box(self) -> Box:
        """(top, left, bottom, right)."""
        return self.top, self.left, self.bottom, self.right


@dataclasses.dataclass(frozen=True, slots=True)
class Detections:
    """The leukocytes of an image from top to bottom, and its scale.

    The scale is None if the image shows nothing to measure it by.
    """

    cells: list[Detection]
    scale: Scale | None


def find_cells(image: np.ndarray) -> list[Detection]:
    """Finds the leukocytes of a field of any size.

    Args:
        image: uint8 `[H, W, 3]` RGB.

    Returns:
        The cells from top to bottom; none if nothing is stained violet, as in gray images.

    Raises:
        ValueError: another type or shape, or no pixels.
    """
    return find(image).cells


def estimate_scale(image: np.ndarray) -> Scale | None:
    """Estimates the magnification from the image's red cells.

    Args, Raises: as in `find_cells`.

    Returns:
        The scale; None if the image shows nothing to measure.
    """
    return find(image).scale


def find(image: np.ndarray, on_tile: Callable[[float], None] | None = None) -> Detections:
    """Finds leukocytes and scale together; errors as in `find_cells`.

    Args:
        image: uint8 `[H, W, 3]` RGB.
        on_tile: called with the part of the work that was done since the call before, twice a
            tile, and by several threads; the parts add up to 1.
    """
    check_image(image)
    on_tile = on_tile or (lambda part: None)
    stain = staining.measure(image) if min(image.shape[:2]) >= _MIN_SIDE else None
    scale = stain and magnification.estimate(image, stain)
    if stain is None or scale is None:
        on_tile(1.0)
        return Detections([], None)

    def find_in(tile: tuple[Box, Box]) -> list[Detection]:
        top, left, bottom, right = tile[1]
        half = (bottom - top) * (right - left) / (image.shape[0] * image.shape[1]) / 2
        cells = _find_in_tile(image, *tile, stain, scale, lambda: on_tile(half))
        on_tile(half)
        return cells

    # OpenCV and SciPy release Python's lock for most of their time.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        cells = list(itertools.chain(*pool.map(find_in, _tiles(image, scale))))
    return Detections(sorted(cells, key=lambda cell: cell.box), scale)


def crop(image: np.ndarray, cell: Detection, margin: float = crops.MARGIN) -> np.ndarray:
    """Cuts the square around a cell out of its field, as the data sets' builders do.

    Args:
        image: `[H, W]` or `[H, W, C]`.
        cell: a cell of that image.
        margin: part of the box's longer side to add at each end.

    Returns:
        A view of the image. At the image's edge the square is shifted inwards and never padded.

    Raises:
        DataError: the cell's box is not in the image, or the margin is below 0.
    """
    return crops.cut(image, cell.box, margin)


def _tiles(image: np.ndarray, scale: Scale) -> list[tuple[Box, Box]]:
    """Divides an image into overlapping windows.

    Returns:
        (window, core) of each tile, in pixels. The cores do not overlap and cover the image; a cell
        belongs to the tile whose core it is centered in.
    """
    overlap = math.ceil(_OVERLAP * scale.red_cell_px)
    core = max(1, math.ceil(_TILE * scale.red_cell_px / RED_CELL_PX))
    sides = []
    for length in image.shape[:2]:
        ends = np.linspace(0, length, math.ceil(length / core) + 1).round().astype(int).tolist()
        sides.append(
            [
                ((max(a - overlap, 0), min(b + overlap, length)), (a, b))
                for a, b in itertools.pairwise(ends)
            ]
        )
    return [
        ((wy[0], wx[0], wy[1], wx[1]), (cy[0], cx[0], cy[1], cx[1]))
        for wy, cy in sides[0]
        for wx, cx in sides[1]
    ]


def _find_in_tile(
    image: np.ndarray,
    window: Box,
    core: Box,
    stain: staining.Stain,
    scale: Scale,
    on_half: Callable[[], None],
) -> list[Detection]:
    """Returns the cells whose nucleus is centered in the tile's core.

    Args:
        image, stain, scale: as in `find`.
        window, core: from `_tiles`.
        on_half: called after about half of the time.
    """
    top, left, bottom, right = window
    pixels = image[top:bottom, left:right]
    # Enlarging more than twice would show no more detail: the smallest cells are measured coarsely.
    work = staining.rescale(pixels, min(2.0, RED_CELL_PX / scale.red_cell_px))
    down, across = pixels.shape[0] / work.shape[0], pixels.shape[1] / work.shape[1]
    red_cell_px = scale.red_cell_px / math.sqrt(down * across)
    densities = stain.densities(work, window, image.shape[:2], 0.04 * red_cell_px)
    lobes = nuclei.split(stain.nucleus_pixels(densities), red_cell_px)
    leukocytes = cytoplasm.leukocyte_pixels(densities, lobes > 0, stain.foreground, red_cell_px)
    on_half()
    nucleus_labels = nuclei.drop_small(
        nuclei.join_lobes(lobes, leukocytes, red_cell_px), red_cell_px
    )
    cell_labels = cytoplasm.label_cells(leukocytes, nucleus_labels, red_cell_px)
    clearly_violet = 2 * stain.min_violet(staining.MAX_RED_CELL_LAYERS)
    found = []
    for nucleus, cell in zip(
        measure.regionprops(nucleus_labels, staining.violet(densities)),
        measure.regionprops(cell_labels),
    ):
        y, x = nucleus.centroid
        y, x = top + (y + 0.5) * down, left + (x + 0.5) * across
        if not (core[0] <= y < core[2] and core[1] <= x < core[3]):
            continue
        rows, columns = cell.bbox[::2], cell.bbox[1::2]
        box = np.array([rows[0] * down, columns[0] * across, rows[1] * down, columns[1] * across])
        box += [top, left, top, left]
        edges = np.array([0, 0, *image.shape[:2]])
        cut = bool((np.abs(box - edges) < 0.5).any())
        box += np.array([-1, -1, 1, 1]) * cytoplasm.BLUR * scale.red_cell_px
        box = np.clip(box.round(), 0, np.tile(image.shape[:2], 2)).astype(int).tolist()
        size = nucleus.area / (np.pi * red_cell_px**2 / 4)
        score = min(1.0, size) * min(1.0, nucleus.intensity_mean / clearly_violet)
        # Each pixel of the box takes the value at its center.
        ys = ((np.arange(box[0], box[2]) + 0.5 - top) / down).astype(int)
        xs = ((np.arange(box[1], box[3]) + 0.5 - left) / across).astype(int)
        height, width = nucleus_labels.shape
        inside = np.ix_(ys.clip(0, height - 1), xs.clip(0, width - 1))
        mask = nucleus_labels[inside] == nucleus.label
        area = round(nucleus.area * down * across)
        found.append(Detection(*box, area, float(score), cut, mask))
    return found
