"""A field of many cells → one box a leukocyte, found by color alone.

No network is used. All colours are optical densities over the image's own light, and all lengths
are measured in red cells of the image, so that neither stain, camera nor magnification is assumed:

1. The light: a quadratic surface through the pixels where nothing is stained. The red cells'
   colour: what is stained and not violet.
2. The scale: the most frequent diameter of round red cells, parted by a watershed of the distance
   transform (`estimate_scale`). From here on the image has 30 pixels a red cell.
3. Nuclei: what is more violet than red cells that absorb as much, two at most on top of each
   other. Round bodies that touch are parted where the distance transform has a neck, and lobes of
   one nucleus are joined, by their gap, their common size, and whether there is cytoplasm between
   them. What is smaller than three tenths of a red cell (a platelet, stain) is no nucleus.
4. The cell: around each nucleus, the colours that are more frequent by nuclei than among the
   image's red cells and background further away.

The numbers in red cells and densities below were chosen on the development part of BCCD (half of
its fields, by a hash of their names: `evaluate.detection.subset_of`) and training cells of JTSC,
CellaVision and Raabin. Recall and precision at IoU 0.5 are 0.985 and 0.940 on the development part,
0.994 and 0.965 on the rest, 0.922 and 0.880 on BCD, whose stain differs most; docs/detection.md has
intervals, failures and what was known before, and `python -m wbc_jax.detect --score` prints them.
"""

import dataclasses
import itertools
import math

import cv2
import numpy as np
from scipy import ndimage
from skimage import feature, filters, measure, morphology, segmentation

from wbc_jax.data import crops
from wbc_jax.data.images import check_image

RED_CELL_UM = 7.5
"""Diameter of a red cell in a smear: 7.2 to 7.9 µm (Bain, Blood Cells, 2015)."""
RED_CELL_PX = 30
"""Pixels a red cell at which cells are looked for."""

_LEAST_SIDE = 16
_WINDOW = 768
_TILE = 1024
_OVERLAP = 4  # red cells: more than a leukocyte's diameter
_LEAST_VIOLET = 0.18  # of nuclei
_BEYOND_RED_CELLS = 0.1  # by which they are more violet than red cells on top of each other
_PILE = 2.2  # of red cells, at most
_LEAST_NUCLEUS = 0.3  # of a red cell's area
_LEAST_CUT_NUCLEUS = 0.2  # of one that the frame cuts
_REACH = 1.1  # of cytoplasm from the nucleus
_RIM = 0.06  # by which the blurred edge of a cell reaches beyond what is seen to be its


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """A leukocyte of a field.

    Attributes:
        top, left, bottom, right: the whole cell in pixels, half open: `image[top:bottom,
            left:right]`.
        nucleus_px: the nucleus's area in pixels of the image, all lobes together.
        score: 0 to 1, how large and how violet the nucleus is; no probability.
        touches_frame: the cell reaches the image's edge, and so may be cut.
        nucleus: bool `[bottom - top, right - left]`, the nucleus's pixels in the box; None: not
            kept.
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
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        return self.top, self.left, self.bottom, self.right


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How large the image shows things.

    Attributes:
        red_cell_px: diameter of a red cell in pixels.
        um_per_px: micrometres a pixel, if a red cell is `RED_CELL_UM` wide.
        red_cells: how many whole, round red cells of about that diameter were found.
        reliable: at least four were, and they are most of all that was found. If not, the
            diameter may be a guess from the largest nucleus (`red_cells` is then 0).
    """

    red_cell_px: float
    um_per_px: float
    red_cells: int
    reliable: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Detections:
    """What was found in an image: its leukocytes from top to bottom, and its scale (None: nothing
    to measure it by)."""

    cells: list[Detection]
    scale: Scale | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Stain:
    """Colours of an image.

    Attributes:
        light: float32 `[3, 6]`, log10 of the unstained light as a quadratic of y and x (-1 to 1).
        red: float32 `[3]`, optical densities of red cells.
        foreground: least density in green of what is stained.
    """

    light: np.ndarray
    red: np.ndarray
    foreground: float

    def least_violet(self, red_cells: float | np.ndarray) -> float | np.ndarray:
        """How violet a nucleus is at least, where the light is absorbed as much as by so many red
        cells on top of each other: two absorb twice as much, and more hardly ever do."""
        pile = np.clip(red_cells, 0, _PILE) * float(_violet(self.red))
        return np.maximum(_LEAST_VIOLET, _BEYOND_RED_CELLS + pile)


def find_cells(image: np.ndarray) -> list[Detection]:
    """Finds every leukocyte of a field of any size (see the module's text).

    Args:
        image: uint8 `[H, W, 3]` RGB.

    Returns:
        The cells from top to bottom; none where nothing is stained violet, as in grey images.

    Raises:
        ValueError: another type or shape, or no pixels.
    """
    return find(image).cells


def estimate_scale(image: np.ndarray) -> Scale | None:
    """Estimates the magnification from the image's red cells.

    Args, Raises: as `find_cells`.

    Returns:
        The scale; None where there is nothing to measure.
    """
    return find(image).scale


def find(image: np.ndarray) -> Detections:
    """Finds leukocytes and scale together. Arguments and errors as of `find_cells`."""
    check_image(image)
    stain = _stain(image) if min(image.shape[:2]) >= _LEAST_SIDE else None
    scale = stain and _scale(image, stain)
    if scale is None:
        return Detections([], None)
    cells = [
        cell for window in _tiles(image, scale) for cell in _in_tile(image, window, stain, scale)
    ]
    return Detections(sorted(cells, key=lambda cell: cell.box), scale)


def crop(image: np.ndarray, cell: Detection, margin: float = crops.MARGIN) -> np.ndarray:
    """Cuts the square around a cell out of its field, as the data sets' builders do.

    Args:
        image: `[H, W]` or `[H, W, C]`.
        cell: of that image.
        margin: part of the box's longer side to add at each end.

    Returns:
        A view of the image; shifted inwards at its edges, so that nothing is padded.

    Raises:
        DataError: the cell's box is not in the image, or the margin is below 0.
    """
    return crops.cut(image, cell.box, margin)


# --- Colours -------------------------------------------------------------------------------------


def _terms(ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """float32 `[H, W, 6]`: the quadratic terms of coordinates `[H]` and `[W]`."""
    y, x = np.meshgrid(ys.astype(np.float32), xs.astype(np.float32), indexing="ij")
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], -1)


def _middles(start: float, end: float, count: int, length: int) -> np.ndarray:
    """Middles of `count` pixels over a stretch of an image's side, which goes from -1 to 1."""
    return (start + (np.arange(count) + 0.5) * (end - start) / count) / length * 2 - 1


def _logarithm(image: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(image, 1, dtype=np.float32))


def _violet(density: np.ndarray) -> np.ndarray:
    """`[..., 3]` densities → `[...]`: high in nuclei under any Romanowsky stain.

    Azure and eosin on chromatin absorb green most and blue least; haemoglobin absorbs blue about as
    much as green, and hardly any red. Black dirt absorbs all alike.
    """
    return density[..., 1] - density[..., 2] + 0.5 * density[..., 0]


def _shrink(image: np.ndarray, factor: float) -> np.ndarray:
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=way)


def _stain(image: np.ndarray) -> _Stain | None:
    """Measures an image's colours; None where it has only one."""
    small = _shrink(image, min(1.0, _WINDOW / 2 / min(image.shape[:2])))
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1)
    green = small[..., 1]
    if np.ptp(green) < 8:
        return None
    try:
        bright = filters.threshold_multiotsu(green, 3)[1]
    except ValueError:  # fewer than three colours
        bright = filters.threshold_otsu(green)
    light = _logarithm(small)
    height, width = green.shape
    terms = _terms(_middles(0, height, height, height), _middles(0, width, width, width))
    surface = np.zeros((3, 6), np.float32)
    surface[:, 0] = np.median(light[green > bright], 0)
    for _ in range(3):
        density = terms @ surface.T - light
        unstained = (np.abs(density) < 0.04).all(-1)
        if unstained.mean() < 0.05:
            break
        known = terms[unstained]
        # Held back where little background is seen, so that it does not follow cells.
        ridge = np.diag([0, 1, 1, 1, 1, 1]) * 0.02 * green.size
        step = np.linalg.solve(known.T @ known + ridge, -known.T @ density[unstained])
        surface += step.T.astype(np.float32)
    density = terms @ surface.T - light
    green = density[..., 1]
    # Noise shows where it is brighter than the background.
    noise = 1.4826 * float(np.median(-green[green < 0])) if (green < 0).any() else 0.0
    stained = density[green > max(0.04, 3 * noise)]
    if len(stained) < 9:
        return None
    amount = _violet(stained)
    if np.ptp(amount) < 1e-3:
        return None
    red = np.median(stained[amount <= max(0.12, filters.threshold_otsu(amount))], 0)
    return _Stain(surface, red, max(0.03, float(red[1]) / 2))


def _is_nucleus(density: np.ndarray, stain: _Stain) -> np.ndarray:
    """bool `[H, W]`: violet enough, and coloured: black and grey things are not."""
    red_cells = density @ stain.red / (stain.red @ stain.red)
    least = stain.least_violet(red_cells)
    coloured = density[..., 1] - density[..., 2] > 0.3 * least
    return (_violet(density) > least) & coloured


# --- Scale ---------------------------------------------------------------------------------------


def _scale(image: np.ndarray, stain: _Stain) -> Scale | None:
    """Measures red cells in up to five windows of an image."""
    height, width = image.shape[:2]
    side = min(_WINDOW, max(height, width))
    factor = min(1.0, _WINDOW / 2 / side)
    down, across = max(height - side, 0), max(width - side, 0)
    corners = {(down // 2, across // 2)}
    corners |= {(y * down // 4, x * across // 4) for y in (1, 3) for x in (1, 3)}
    diameters, nuclei = [], [0.0]
    for top, left in sorted(corners):
        part = image[top : top + side, left : left + side]
        small = _shrink(part, factor)
        ys = _middles(top, top + part.shape[0], small.shape[0], height)
        xs = _middles(left, left + part.shape[1], small.shape[1], width)
        density = _terms(ys, xs) @ stain.light.T
        density -= _logarithm(cv2.GaussianBlur(small, (0, 0), 1))
        white = morphology.opening(_is_nucleus(density, stain), morphology.disk(1))
        diameters.append(_red_cells(density[..., 1] > stain.foreground, white) / factor)
        bodies, count = ndimage.label(morphology.closing(white, morphology.disk(3)))
        areas = ndimage.sum_labels(white, bodies, range(1, count + 1))
        nuclei.extend(2 * np.sqrt(np.asarray(areas) / np.pi) / factor)
    found = np.concatenate(diameters)
    # A leukocyte's nucleus is a little larger than a red cell.
    guess = max(nuclei) / 1.15
    if not len(found) and guess * factor < 4:
        return None
    red_cell_px, alike, share = _most_frequent(found) if len(found) else (guess, 0, 0.0)
    if alike < 3 and guess > 0 and not 0.6 < red_cell_px / guess < 1.6:
        red_cell_px, alike = guess, 0
    reliable = alike >= 4 and share >= 0.5
    return Scale(red_cell_px, RED_CELL_UM / red_cell_px, alike, reliable)


def _red_cells(stained: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Diameters in pixels of what is round, whole and no leukocyte: float64 `[N]`."""
    stained = morphology.opening(stained, morphology.disk(1))
    stained = ndimage.binary_fill_holes(stained)  # paler middles
    depth = _depth(stained)
    smooth = cv2.GaussianBlur(depth, (0, 0), 1.5)
    peaks = feature.peak_local_max(smooth, min_distance=4, threshold_abs=3, exclude_border=False)
    markers = np.zeros(stained.shape, np.int32)
    index = np.arange(1, len(peaks) + 1)
    markers[tuple(peaks.T)] = index
    parts = segmentation.watershed(-smooth, markers, mask=stained)
    if not len(peaks):
        return np.zeros(0)
    area = np.bincount(parts.ravel(), minlength=len(peaks) + 1)[1:]
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    violet = ndimage.mean(morphology.dilation(white, morphology.disk(2)), parts, index)
    # How much larger than the largest disc inside: 1 for a disc.
    excess = area / (np.pi * ndimage.maximum(depth, parts, index) ** 2)
    return 2 * np.sqrt(area[~np.isin(index, edge) & (violet < 0.1) & (excess < 1.7)] / np.pi)


def _most_frequent(diameters: np.ndarray) -> tuple[float, int, float]:
    """The most frequent diameter, how many are within a quarter of it, and their share of all.

    Each counts as its diameter, as platelets and specks are many.
    """
    logs = np.log(diameters)
    kernel = np.exp(-(((logs[:, None] - logs) / 0.12) ** 2) / 2)
    mode = diameters[(kernel @ diameters).argmax()]
    alike = np.abs(logs - np.log(mode)) < math.log(1.25)
    share = float(diameters[alike].sum() / diameters.sum())
    return float(np.median(diameters[alike])), int(alike.sum()), share


# --- Cells ---------------------------------------------------------------------------------------

_Window = tuple[tuple[int, int, int, int], tuple[int, int, int, int]]


def _tiles(image: np.ndarray, scale: Scale) -> list[_Window]:
    """Overlapping windows, and the part of each of which the cells are taken: pixels, half open."""
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


def _in_tile(image: np.ndarray, tile: _Window, stain: _Stain, scale: Scale) -> list[Detection]:
    """The cells whose nucleus's middle is in the tile's core."""
    (top, left, bottom, right), core = tile
    part = image[top:bottom, left:right]
    zoom = RED_CELL_PX / scale.red_cell_px
    # Enlarging shows no more, so that the smallest cells are measured more coarsely.
    work = _shrink(part, min(2.0, zoom))
    down, across = part.shape[0] / work.shape[0], part.shape[1] / work.shape[1]
    red = scale.red_cell_px / math.sqrt(down * across)
    ys = _middles(top, bottom, work.shape[0], image.shape[0])
    xs = _middles(left, right, work.shape[1], image.shape[1])
    density = _terms(ys, xs) @ stain.light.T
    density -= _logarithm(cv2.GaussianBlur(work, (0, 0), 0.04 * red))
    violet = _violet(density)
    clear = 2 * stain.least_violet(_PILE)
    lobes = _lobes(_is_nucleus(density, stain), red)
    own = _like_cells(density, lobes > 0, stain.foreground, red)
    nuclei = _whole_nuclei(_join(lobes, own, red), red)
    cells = _extent(own, nuclei, red)
    found = []
    for nucleus, cell in zip(measure.regionprops(nuclei, violet), measure.regionprops(cells)):
        y, x = nucleus.centroid
        y, x = top + (y + 0.5) * down, left + (x + 0.5) * across
        if not (core[0] <= y < core[2] and core[1] <= x < core[3]):
            continue
        rows, columns = cell.bbox[::2], cell.bbox[1::2]
        box = np.array([rows[0] * down, columns[0] * across, rows[1] * down, columns[1] * across])
        box += [top, left, top, left]
        edges = np.array([0, 0, *image.shape[:2]])
        cut = bool((np.abs(box - edges) < 0.5).any())
        box += np.array([-1, -1, 1, 1]) * _RIM * scale.red_cell_px
        box = np.clip(box.round(), 0, np.tile(image.shape[:2], 2)).astype(int).tolist()
        size = nucleus.area / (np.pi * red**2 / 4)
        score = min(1.0, size) * min(1.0, nucleus.intensity_mean / clear)
        # Each pixel of the box takes the value at its middle.
        ys = ((np.arange(box[0], box[2]) + 0.5 - top) / down).astype(int)
        xs = ((np.arange(box[1], box[3]) + 0.5 - left) / across).astype(int)
        inside = np.ix_(ys.clip(0, nuclei.shape[0] - 1), xs.clip(0, nuclei.shape[1] - 1))
        shown = nuclei[inside] == nucleus.label
        area = round(nucleus.area * down * across)
        found.append(Detection(*box, area, float(score), cut, shown))
    return found


def _depth(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels to what is not in the mask, nor in the image."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]


def _disk(radius: float) -> np.ndarray:
    return morphology.disk(max(1, round(radius)))


def _lobes(mask: np.ndarray, red: float) -> np.ndarray:
    """int32 labels of nuclei and of their lobes; whole nuclei that touch are parted.

    Args:
        mask: bool `[H, W]`, from `_is_nucleus`.
        red: red cells' diameter in pixels of it.
    """
    mask = ndimage.binary_fill_holes(morphology.opening(mask, _disk(0.05 * red)))
    parts, _ = ndimage.label(mask)
    mask &= (np.bincount(parts.ravel()) > int(0.03 * red**2))[parts]
    smooth = cv2.GaussianBlur(_depth(mask), (0, 0), 0.05 * red)
    # A nucleus of its own is wide, and a neck parts it from others.
    tops = morphology.h_maxima(smooth, 0.12 * red).astype(bool) & (smooth > 0.38 * red)
    markers, bodies = ndimage.label(tops, np.ones((3, 3)))
    lobes, count = ndimage.label(mask, np.ones((3, 3)))
    in_lobe = np.zeros(count + 1, int)
    np.add.at(in_lobe, ndimage.maximum(lobes, markers, range(1, bodies + 1)).astype(int), 1)
    several = np.flatnonzero(in_lobe[1:] > 1) + 1
    if len(several):
        inside = np.isin(lobes, several)
        parts = segmentation.watershed(-smooth, np.where(inside, markers, 0), mask=inside)
        lobes = np.where(inside, parts + count, lobes)
    return segmentation.relabel_sequential(lobes)[0].astype(np.int32)


_BIN, _BINS, _FIRST = 0.025, 24, -0.05


def _like_cells(
    density: np.ndarray, nuclei: np.ndarray, foreground: float, red: float
) -> np.ndarray:
    """bool `[H, W]`: nuclei, and colours near them that red cells and background do not have.

    Smoothed histograms of the colour by nuclei, of what is stained further away, and of what is
    not, are compared (Swain and Ballard 1991). The first is then taken again from what was found.
    """
    if not nuclei.any():
        return nuclei
    levels = np.clip(((density - _FIRST) / _BIN).astype(int), 0, _BINS - 1)
    colour = np.ravel_multi_index(tuple(np.moveaxis(levels, -1, 0)), (_BINS,) * 3)
    far = cv2.distanceTransform((~nuclei).astype(np.uint8), cv2.DIST_L2, 5)
    outside = far > 1.2 * red
    if np.count_nonzero(outside) < red**2:
        outside = far >= np.quantile(far, 0.8)
    stained = density[..., 1] > foreground
    # Each counts as much as the other: red cells may crowd around a nucleus.
    away = np.maximum(
        _frequencies(colour[outside & stained]), _frequencies(colour[outside & ~stained])
    )
    possible = (np.abs(density).max(-1) > 0.6 * foreground) & (far < _REACH * red)
    own = far < 0.25 * red
    for _ in range(3):
        near = _frequencies(colour[own])
        chance = (near / (near + away))[colour].astype(np.float32)
        own = (cv2.GaussianBlur(chance, (0, 0), 0.06 * red) > 0.5) & possible | nuclei
    return own


def _frequencies(colours: np.ndarray) -> np.ndarray:
    """Share of each colour, smoothed and never 0."""
    counts = np.bincount(colours, minlength=_BINS**3).reshape((_BINS,) * 3).astype(np.float32)
    return ndimage.gaussian_filter(counts, 1.0).ravel() / max(1, len(colours)) + 1e-6


def _join(lobes: np.ndarray, own: np.ndarray, red: float) -> np.ndarray:
    """int32 labels of nuclei: lobes of one cell are joined, the nearest first.

    Args:
        lobes: from `_lobes`.
        own: from `_like_cells`.
        red: red cells' diameter in pixels.
    """
    regions = measure.regionprops(lobes)
    rims = []
    for region in regions:
        rim = region.image & ~ndimage.binary_erosion(region.image)
        rims.append((np.argwhere(rim) + region.bbox[:2]).astype(np.float32))
    gaps = []
    for i, first in enumerate(regions):
        for j, second in enumerate(regions[:i]):
            a, b = first.bbox, second.bbox
            if max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) <= 0.45 * red:
                gap = math.sqrt(((rims[i][:, None] - rims[j]) ** 2).sum(-1).min())
                if gap <= 0.45 * red:
                    gaps.append((gap, j, i))
    group = np.arange(len(regions))
    areas = np.array([region.area for region in regions], float)
    whole = np.pi * red**2 / 4
    for gap, i, j in sorted(gaps):
        i, j = group[i], group[j]
        if i == j:
            continue
        both = np.concatenate([rims[i], rims[j]])
        span = 2 * cv2.minEnclosingCircle(both)[1]
        if span > 2.85 * red:
            continue
        least = min(areas[i], areas[j])
        # Lobes have their cell's cytoplasm between them; two cells have a notch.
        foreign = _foreign(both, lobes, np.flatnonzero((group == i) | (group == j)) + 1, own)
        small_and_near = least < 0.5 * whole and gap < 0.2 * red
        limit = 0.09 if least > 0.6 * whole or span > 2.4 * red else 0.25
        if least > 0.85 * whole:  # each could be a nucleus of its own
            limit = 0.06
        if foreign > limit and not small_and_near:
            continue
        rims[i], areas[i] = both, areas[i] + areas[j]
        group[group == j] = i
    return np.concatenate([[0], group + 1]).astype(np.int32)[lobes]


def _foreign(rim: np.ndarray, lobes: np.ndarray, which: np.ndarray, own: np.ndarray) -> float:
    """The share of some lobes' convex hull that belongs to no leukocyte."""
    low, high = rim.min(0).astype(int), rim.max(0).astype(int) + 1
    hull = np.zeros(high - low, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull((rim - low)[:, ::-1].astype(np.int32)), 1)
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    between = (hull > 0) & ~np.isin(lobes[window], which)
    return np.count_nonzero(between & ~own[window]) / max(1, np.count_nonzero(hull))


def _whole_nuclei(groups: np.ndarray, red: float) -> np.ndarray:
    """int32 labels 1, 2, … of what is large enough for a leukocyte's nucleus."""
    height, width = groups.shape
    kept = np.zeros(int(groups.max()) + 1, np.int32)
    for region in measure.regionprops(groups):
        top, left, bottom, right = region.bbox
        cut = min(top, left) == 0 or bottom == height or right == width
        least = _LEAST_CUT_NUCLEUS if cut else _LEAST_NUCLEUS
        if region.area >= least * np.pi * red**2 / 4:
            kept[region.label] = kept.max() + 1
    return kept[groups]


def _extent(own: np.ndarray, nuclei: np.ndarray, red: float) -> np.ndarray:
    """int32 labels of whole cells, as those of their nuclei."""
    cells = np.zeros_like(nuclei)
    nearest = segmentation.expand_labels(nuclei, _REACH * red)
    rim = segmentation.expand_labels(nuclei, _RIM * red)
    for label in range(1, int(nuclei.max()) + 1):
        nucleus = rim == label
        mask = morphology.closing((nearest == label) & own | nucleus, _disk(0.06 * red))
        # Bridges to stain nearby are narrower than a cell.
        mask = morphology.opening(ndimage.binary_fill_holes(mask), _disk(0.2 * red)) | nucleus
        parts, _ = ndimage.label(mask)
        mask = np.isin(parts, np.unique(parts[nuclei == label]))
        cells[mask & ((cells == 0) | nucleus)] = label
    return cells
