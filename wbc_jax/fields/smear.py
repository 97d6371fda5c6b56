"""Which parts of a slide are looked at: the thin part of the smear, region by region.

A person looks where red cells lie side by side and hardly overlap. The slide is divided into
regions, and each is of one of `KINDS`:

1. At some places, from the palest to the darkest, red cells give the slide's light, their
   absorption, and the magnification if the file does not state it (`calibrate`).
2. A small picture of the slide then shows how many layers of red cells lie in each region: `glass`
   has none, the `thick` part too many. `edge` is the feathered edge: few red cells, or near glass
   of some size (`judge`).
3. When a region of the `thin` part is read, the share of stained pixels in which red cells lie on
   each other, in the densest part of the region, decides once more (`overlap`).

Regions are visited in an order in which each first part is spread over all of them (`spread`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent import futures

import cv2
import numpy as np
from scipy import ndimage

from wbc_jax.fields import magnification, staining
from wbc_jax.fields.finder import Box

GLASS, EDGE, THIN, THICK = KINDS = ("glass", "edge", "thin", "thick")
MAX_OVERLAP = 0.35
"""Largest share of stained pixels in which red cells lie on each other, in the thin part."""
_GLASS_LAYERS, _EDGE_LAYERS, _THICK_LAYERS = 0.02, 0.08, 0.8
"""Layers of red cells: below, the glass is empty; below, cells are as few as at the feathered edge;
above, they overlap too much."""
_EDGE_UM = 300.0
"""Distance from glass, in micrometers, up to which the smear is its edge."""
_GLASS_UM = 5.0
"""Finest pixel, in micrometers, at which glass is looked for."""
_PILE = 1.6
"""Layers from which on a pixel shows red cells that lie on each other."""
_PROBES, _PROBE_PX = 12, 768
"""Number and side of the places at which red cells are measured."""
_LEAST_DARK, _LEAST_PROBE_PX = 0.01, 64
"""Part of the light that a place takes away at least, and its shorter side, to be measured."""
_LEAST_RED_CELLS = 8
"""Fewest red cells of a place that says something."""
_OVERLAP_RED_CELL_PX = 15
"""Diameter of a red cell at which overlap is measured."""
_BLOCK_RED_CELLS, _LEAST_STAINED = 16, 0.2
"""Side of the blocks in which overlap is measured, in diameters of red cells, and the part of a
block that is taken to be stained at least: a few cells on each other make no thick part."""


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A region of a slide.

    Attributes:
        number: its place in the list of all regions, row by row.
        core: the region, (top, left, bottom, right) in pixels of the slide; cores cover the slide
            and do not overlap.
        window: the core and a margin around it, in which the region's cells are whole.
        kind: one of `KINDS`.
    """

    number: int
    core: Box
    window: Box
    kind: str = THIN


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """What red cells say of a slide.

    Attributes:
        light: gray levels of unstained glass, float64 `[3]`.
        red_cell: optical densities of a red cell, float64 `[3]`.
        red_cell_px: its diameter in pixels of the finest level.
    """

    light: np.ndarray
    red_cell: np.ndarray
    red_cell_px: float

    @property
    def um_per_px(self) -> float:
        """Micrometers per pixel, if a red cell is `magnification.RED_CELL_UM` wide."""
        return magnification.RED_CELL_UM / self.red_cell_px

    def layers(self, pixels: np.ndarray) -> np.ndarray:
        """Returns how many red cells would absorb as much green light, float32 `[...]`.

        In a picture in which red cells cannot be told, it is the part that they cover, as long as
        they do not overlap.

        Args:
            pixels: uint8 `[..., 3]`.
        """
        dark = 1 - pixels[..., 1].astype(np.float32) / np.float32(self.light[1])
        return np.maximum(dark, 0) / np.float32(1 - 10 ** -self.red_cell[1])


def divide(size: tuple[int, int], core: int, margin: int) -> list[Region]:
    """Divides a slide into regions of nearly the same size, row by row.

    Args:
        size: its height and width.
        core: longest side of a core.
        margin: pixels around a core, as far as the slide goes.
    """
    sides = []
    for length in size:
        ends = np.linspace(0, length, math.ceil(length / core) + 1).round().astype(int).tolist()
        sides.append(list(itertools.pairwise(ends)))
    return [
        Region(
            number,
            (top, left, bottom, right),
            (
                max(top - margin, 0),
                max(left - margin, 0),
                min(bottom + margin, size[0]),
                min(right + margin, size[1]),
            ),
        )
        for number, ((top, bottom), (left, right)) in enumerate(itertools.product(*sides))
    ]


def spread(regions: Sequence[Region], seed: int = 0) -> list[Region]:
    """Returns regions in an order in which each first part is spread evenly over all.

    Along a Morton curve, neighbors lie near each other; the curve is visited in the order of van
    der Corput's sequence, from a place that the seed chooses.

    Args:
        regions: in any order.
        seed: any number.
    """
    if not regions:
        return []
    ys, xs = (sorted({region.core[side] for region in regions}) for side in (0, 1))
    rank = [{value: i for i, value in enumerate(values)} for values in (ys, xs)]

    def along(region: Region) -> int:
        y, x = rank[0][region.core[0]], rank[1][region.core[1]]
        return sum(
            (y >> bit & 1) << (2 * bit + 1) | (x >> bit & 1) << (2 * bit) for bit in range(24)
        )

    curve = sorted(regions, key=along)
    bits = max(1, (len(curve) - 1).bit_length())
    numbers = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    start = int(np.random.default_rng(seed).integers(len(curve)))
    return [curve[(i + start) % len(curve)] for i in numbers if i < len(curve)]


def calibrate(
    regions: Sequence[Region], overview: np.ndarray, read: Callable[[Box], np.ndarray | None]
) -> Calibration | None:
    """Measures red cells at up to `_PROBES` places, from the palest to the darkest.

    Args:
        regions: all of the slide.
        overview: uint8 `[h, w, 3]`, a small picture of the whole slide.
        read: returns a part of the slide, uint8 `[h, w, 3]`; None if it is damaged.

    Returns:
        The median of the places that show the most red cells; None if there are none.
    """
    size = _size(regions)
    # By darkness, not by area: most of a smear may be too thick.
    dark = _dark(overview)
    amounts = {r: a for r in regions if (a := _mean(dark, r.core, regions)) > _LEAST_DARK}
    chosen: dict[Region, None] = {}
    ends = min(amounts.values(), default=1.0), max(amounts.values(), default=1.0)
    for amount in np.geomspace(*ends, _PROBES):  # more of the pale ones, as the thin part is pale
        left = [region for region in amounts if region not in chosen]
        if left:
            chosen[min(left, key=lambda r: (abs(amounts[r] - amount), r.number))] = None

    def measure(region: Region) -> tuple[int, np.ndarray, np.ndarray, float] | None:
        middle = [(region.core[i] + region.core[i + 2]) // 2 for i in (0, 1)]
        top, left = (max(0, min(m - _PROBE_PX // 2, s - _PROBE_PX)) for m, s in zip(middle, size))
        pixels = read((top, left, min(top + _PROBE_PX, size[0]), min(left + _PROBE_PX, size[1])))
        if pixels is None or min(pixels.shape[:2]) < _LEAST_PROBE_PX:
            return None
        stain = staining.measure(pixels)
        scale = stain and magnification.estimate(pixels, stain)
        if not (scale and scale.reliable and scale.red_cells >= _LEAST_RED_CELLS):
            return None
        light = 10.0 ** stain.light[:, 0].astype(np.float64)
        return scale.red_cells, light, stain.red_cell, scale.red_cell_px

    # Threads help: scikit-image and OpenCV release Python's lock for most of their time.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [one for one in pool.map(measure, chosen) if one is not None]
    if not found:
        return None
    # Where red cells lie on each other, few are whole and round.
    best = sorted(found, key=lambda one: -one[0])[: max(1, len(found) // 2)]
    light, red_cell = (np.median([one[i] for one in best], 0).astype(np.float64) for i in (1, 2))
    return Calibration(light, red_cell, float(np.median([one[3] for one in best])))


def judge(
    regions: Sequence[Region],
    overview: np.ndarray,
    unread: np.ndarray,
    calibration: Calibration,
    um_per_px: float,
) -> list[Region]:
    """Returns the regions with their kinds.

    Args:
        regions: all of the slide.
        overview: uint8 `[h, w, 3]`, a small picture of the whole slide.
        unread: bool `[h, w]`, its pixels that could not be read. Regions with such pixels are
            `thin`: whoever reads them finds the damage.
        calibration: of the slide.
        um_per_px: of the finest level.
    """
    layers = calibration.layers(overview)
    far = _from_glass(layers, unread, um_per_px * _size(regions)[0] / overview.shape[0])
    found = []
    for region in regions:
        amount = _mean(layers, region.core, regions)
        y, x = _middle(region.core, regions, far.shape)
        kind = THIN
        if _part(unread, region.core, regions).any():
            pass
        elif amount < _GLASS_LAYERS:
            kind = GLASS
        elif amount < _EDGE_LAYERS or far[y, x] <= _EDGE_UM:
            kind = EDGE
        elif amount > _THICK_LAYERS:
            kind = THICK
        found.append(dataclasses.replace(region, kind=kind))
    return found


def _from_glass(layers: np.ndarray, unread: np.ndarray, um: float) -> np.ndarray:
    """Returns the distance in micrometers from glass of some size, float64, at `_GLASS_UM` a pixel.

    Args:
        layers: float32 `[h, w]`, of red cells.
        unread: bool `[h, w]`, pixels that are not known.
        um: micrometers per pixel.
    """
    # A wide filter costs much in a fine picture.
    if um < _GLASS_UM:
        size = tuple(max(1, round(side * um / _GLASS_UM)) for side in layers.shape[::-1])
        layers = cv2.resize(layers, size, interpolation=cv2.INTER_AREA)
        unread = cv2.resize(unread.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        um = _GLASS_UM
    # A few cells across, so that the gaps between red cells are no glass.
    smooth = cv2.GaussianBlur(layers, (0, 0), max(0.5, 40 / um))
    empty, count = ndimage.label((smooth < _EDGE_LAYERS) & ~unread)
    areas = np.bincount(empty.ravel(), minlength=count + 1)
    areas[0] = 0
    outside = (areas * um**2 >= _EDGE_UM**2)[empty]
    if not outside.any():
        return np.full(layers.shape, np.inf)
    return ndimage.distance_transform_edt(~outside) * um


def judge_darkness(
    regions: Sequence[Region], overview: np.ndarray, unread: np.ndarray
) -> list[Region]:
    """As `judge` without a calibration: a region is empty glass, or `thin`."""
    dark = _dark(overview)
    return [
        dataclasses.replace(region, kind=THIN if seen else GLASS)
        for region in regions
        for seen in [
            _mean(dark, region.core, regions) > _LEAST_DARK
            or _part(unread, region.core, regions).any()
        ]
    ]


def overlap(pixels: np.ndarray, calibration: Calibration) -> float:
    """Returns the share of stained pixels, nuclei aside, in which red cells lie on each other.

    It is that of the block with the largest, as a region may lie across the end of the thin part.

    Args:
        pixels: uint8 `[h, w, 3]`, a part of the finest level.
        calibration: of the slide.
    """
    factor = min(1.0, _OVERLAP_RED_CELL_PX / calibration.red_cell_px)
    small = np.maximum(staining.rescale(pixels, factor), 1).astype(np.float32)
    densities = np.log10(calibration.light.astype(np.float32) / small)
    red = calibration.red_cell.astype(np.float32)
    layers = densities[..., 1] / red[1]
    own = staining.violet(densities) - layers * staining.violet(red) < 0.1  # no nucleus
    stained = (layers > 0.5) & own
    piled = stained & (layers > _PILE)
    block = _BLOCK_RED_CELLS * calibration.red_cell_px * factor
    starts = [
        np.linspace(0, side, max(1, round(side / block)), endpoint=False).astype(int)
        for side in stained.shape
    ]

    def sums(pixels: np.ndarray) -> np.ndarray:
        rows = np.add.reduceat(pixels.astype(np.int64), starts[0], axis=0)
        return np.add.reduceat(rows, starts[1], axis=1)

    least = _LEAST_STAINED * sums(np.ones_like(stained))
    return float((sums(piled) / np.maximum(sums(stained), least)).max())


def _dark(overview: np.ndarray) -> np.ndarray:
    """Returns the part of the green light that is taken away, float32 `[h, w]`."""
    green = overview[..., 1].astype(np.float32)
    return 1 - green / max(float(np.percentile(green, 99.5)), 1.0)


def _size(regions: Sequence[Region]) -> tuple[int, int]:
    return regions[-1].core[2], regions[-1].core[3]


def _part(picture: np.ndarray, core: Box, regions: Sequence[Region]) -> np.ndarray:
    """Returns the pixels of a picture of the whole slide that show a region; at least one."""
    height, width = _size(regions)
    top, bottom = (core[i] * picture.shape[0] // height for i in (0, 2))
    left, right = (core[i] * picture.shape[1] // width for i in (1, 3))
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def _mean(picture: np.ndarray, core: Box, regions: Sequence[Region]) -> float:
    return float(_part(picture, core, regions).mean())


def _middle(core: Box, regions: Sequence[Region], shape: tuple[int, int]) -> tuple[int, int]:
    height, width = _size(regions)
    y = (core[0] + core[2]) * shape[0] // (2 * height)
    x = (core[1] + core[3]) * shape[1] // (2 * width)
    return y, x
