"""Cuts an image to its cell by a segmenter's mask.

What a classifier learns on one scanner and cannot use on another is mostly around the cell: the
color of the light, the magnification, the neighbors. So each cell is cut to its own box, which
makes it span the image at any magnification, under white light, and on a plain ground. How dark
laboratories and cameras show the stain may be told from the nucleus and the red cells, too.
"""

import dataclasses

import cv2
import numpy as np
from scipy import ndimage
from skimage import segmentation

from wbc_jax.config import Data
from wbc_jax.data import crops
from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS

MARGIN = 0.08
"""Share of the cell's longer side that is kept around it, as a segmenter may cut off its rim."""
GROUND = 235
"""Gray level of everything but the cell."""
WHITE = 245
"""Level to which the brightest pixels of each channel are scaled."""
LEAST_POWER, MOST_POWER = 0.5, 3.0
"""Range of the factor of optical densities. A smaller one would only pale what a camera clipped."""
LEAST_GAMMA, USUAL_GAMMA, MOST_GAMMA = 0.6, 1.3, 1.8
"""Range of the exponent of optical densities, and the exponent of images without red cells: the
mean of what PBC, BCCD, Raabin and CellaVision need (0.9 to 1.7)."""
RED_DENSITY, RED_SHARE, RED_OF_NUCLEUS, RED_OF_GREEN = 0.15, 0.15, 0.6, 0.4
"""Red cells are the pixels beside the cell with a density of at least `RED_DENSITY` and at most
`RED_OF_NUCLEUS` of the nucleus's, if these are `RED_SHARE` of all and absorb at least
`RED_OF_GREEN` times as much red as green: red cells of four sources 0.5 to 0.7 times, what lies
around JTSC's cells 0.3 times."""
STEP = 2
"""Every second pixel of every second row is enough for what is told from many."""
NECK, OWN_NUCLEUS = 0.5, 0.2
"""A neighbor is separated where the mask is narrower than `NECK` times its width, if the neighbor
has at least `OWN_NUCLEUS` times the nucleus of the cell. Chosen on validation images of JTSC,
CellaVision and Raabin, where 0.3 to 0.6 give the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stain:
    """Natural optical densities in green that parts of an image are brought to; 0: as they are.

    Attributes:
        nucleus: the median of the nucleus, by one factor for all densities.
        red_cells: with `nucleus`, the median of the red cells, by one exponent for all densities.
    """

    nucleus: float = 0.0
    red_cells: float = 0.0

    @classmethod
    def of(cls, data: Data) -> "Stain":
        """Returns what the settings of data ask for."""
        return cls(data.nucleus_density, data.red_density)


AS_IT_IS = Stain()


def cut_as(data: Data, other: Data) -> Data:
    """Returns settings of data whose images are cut to their cell as those of `other`."""
    return dataclasses.replace(
        data,
        isolate=other.isolate,
        nucleus_density=other.nucleus_density,
        red_density=other.red_density,
    )


def whole(data: Data) -> Data:
    """Returns settings of the same data whose images are not cut to their cell."""
    return cut_as(data, Data())


def isolate(image: np.ndarray, mask: np.ndarray, stain: Stain = AS_IT_IS) -> np.ndarray:
    """Cuts an image to its cell.

    Keeps the cell with the most nucleus, weighted by its distance from the middle. If the mask
    shows no cell, keeps the whole image, under white light.

    Args:
        image: uint8 `[H, W, 3]`.
        mask: uint8 `[h, w]` of any size: 0 background, 1 cytoplasm, 2 nucleus.
        stain: densities that the image is brought to.

    Returns:
        uint8 `[s, t, 3]`, a square unless the cell is longer than the image's shorter side.
    """
    height, width = image.shape[:2]
    image = _white(image)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    cell = _middle_cell(mask)
    if cell is None:
        return image
    if stain.nucleus:
        image = _stained(image, cell, cell & (mask == NUCLEUS), stain)
    box = crops.bounding_box(cell)
    reach = max(1, round(MARGIN * max(box[2] - box[0], box[3] - box[1])))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    kept = cv2.dilate(cell.astype(np.uint8), disc) > 0
    image = np.where(kept[..., None], image, np.uint8(GROUND))
    return crops.cut(image, box, MARGIN).copy()  # a view in a cache would keep the whole image


def keep_middle_cell(mask: np.ndarray) -> np.ndarray:
    """Keeps one cell of a mask: the one with the most nucleus, weighted by its distance from the
    middle.

    Args:
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.

    Returns:
        uint8 `[H, W]`, with background in place of other cells.
    """
    cell = _middle_cell(mask)
    return mask if cell is None else np.where(cell, mask, np.uint8(BACKGROUND))


def _white(image: np.ndarray) -> np.ndarray:
    """Scales each channel so that its brightest pixels, the unstained light, are `WHITE`."""
    light = np.percentile(image[::STEP, ::STEP].reshape(-1, 3), 97, axis=0)
    table = np.arange(256)[:, None] * (WHITE / np.maximum(light, 1))
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.stack([table[image[..., i], i] for i in range(3)], -1)


def _stained(image: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, stain: Stain) -> np.ndarray:
    """Brings the optical densities of an image in white light to those of `stain`.

    Laboratories differ by a factor of four in the density of nuclei, and what is pale or dark in
    one is so in all its parts: with the nucleus, cytoplasm and granules come to the colors that
    they have elsewhere. What cameras do to middle tones differs, too; the red cells tell it.

    Args:
        image: uint8 `[H, W, 3]`.
        cell, nucleus: bool `[H, W]`.
        stain: as in `isolate`.
    """
    found = _median_density(image[..., 1][nucleus])
    if found is None:
        return image
    reached = found * np.clip(stain.nucleus / found, LEAST_POWER, MOST_POWER)
    gamma = 1.0
    if stain.red_cells:
        red = _red_density(image, cell, found)
        wanted = np.log(stain.nucleus / stain.red_cells)
        gamma = USUAL_GAMMA if red is None else wanted / np.log(found / red)
        gamma = np.clip(gamma, LEAST_GAMMA, MOST_GAMMA)
    density = -np.log(np.maximum(np.arange(256), 1e-9) / WHITE)
    # Brighter than white light is a negative density.
    new = np.sign(density) * reached * (np.abs(density) / found) ** gamma
    table = np.clip(np.rint(WHITE * np.exp(-new)), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(image), table)


def _red_density(image: np.ndarray, cell: np.ndarray, nucleus: float) -> float | None:
    """Returns the median density in green of the red cells; None if there are hardly any.

    Args:
        image: uint8 `[H, W, 3]`, in white light.
        cell: bool `[H, W]`.
        nucleus: density of the nucleus in green.
    """
    beside = cv2.dilate(cell.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    pixels = image[::STEP, ::STEP][beside[::STEP, ::STEP]]
    low, high = WHITE * np.exp([-RED_OF_NUCLEUS * nucleus, -RED_DENSITY])
    red = pixels[(pixels[:, 1] >= low) & (pixels[:, 1] <= high)]
    if len(red) < max(RED_SHARE * len(pixels), 1):
        return None
    found = _median_density(red[:, 1])
    return found if _median_density(red[:, 0]) >= RED_OF_GREEN * found else None


def _median_density(levels: np.ndarray) -> float | None:
    """Returns the natural optical density of the (lower) median of uint8 levels; None of none."""
    if not len(levels):
        return None
    level = int(np.searchsorted(np.bincount(levels, minlength=256).cumsum(), len(levels) / 2))
    return -np.log(np.clip(level, 1, WHITE - 1) / WHITE)


def _middle_cell(mask: np.ndarray) -> np.ndarray | None:
    """Returns bool `[H, W]`, the image's cell with its holes filled; None without a cell."""
    stained = ((mask == NUCLEUS) | (mask == CYTOPLASM)).astype(np.uint8)
    count, regions = cv2.connectedComponents(stained)
    if count < 2:
        return None
    best = _in_the_middle(mask, regions, count)
    outline, _ = cv2.findContours(
        (regions == best).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), outline, -1, 1, cv2.FILLED)
    # A neighbor that touches the cell widens again beyond a neck and has its own nucleus. A part
    # without a nucleus is an arm of the cell.
    depth = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    count, cores = cv2.connectedComponents((depth > NECK * depth.max()).astype(np.uint8))
    if count < 3:
        return filled > 0
    regions = segmentation.watershed(-depth, cores, mask=filled > 0)
    best = _in_the_middle(mask, regions, count)
    nucleus = np.bincount(regions[mask == NUCLEUS], minlength=count)
    others = nucleus >= np.maximum(OWN_NUCLEUS * nucleus[best], 1)
    others[[0, best]] = False
    return (filled > 0) & ~others[regions]


def _in_the_middle(mask: np.ndarray, regions: np.ndarray, count: int) -> int:
    """Returns the region, 1 to `count` - 1, with the most nucleus, weighted by its distance from
    the middle; cytoplasm counts a tenth."""
    index = np.arange(1, count)
    weight = np.where(mask == NUCLEUS, 1.0, 0.1)
    amounts = ndimage.sum_labels(weight, regions, index)
    middles = np.array(ndimage.center_of_mass(np.ones(mask.shape), regions, index))
    off = middles / mask.shape * 2 - 1
    return 1 + int((amounts * np.exp(-2 * (off**2).sum(1))).argmax())
