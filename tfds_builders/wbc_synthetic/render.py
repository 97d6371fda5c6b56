"""Draws stained blood-smear fields, with exact masks, in NumPy and SciPy.

Everything is laid out in micrometres and drawn on a grid twice as fine as the image: the plasma,
the red cells, the platelets, then the leukocytes (cytoplasm, vacuoles, nucleus, granules), then
the optics (uneven light, fringes, defocus) and the sensor. A pixel's class is the one that covers
at least half of it, so image and mask come from the same coverage maps. All random numbers come
from one generator, seeded by the caller's numbers alone.
"""

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from wbc_jax.labels import CELL_TYPES, CYTOPLASM, NUCLEUS

__all__ = ["PALETTES", "Cell", "Field", "FieldCell", "Palette", "render_cell", "render_field"]

SUPERSAMPLE = 2
BASOPHIL, EOSINOPHIL, LYMPHOCYTE, MONOCYTE, NEUTROPHIL = range(5)
_FIELD_STREAM = 0x51DE  # keeps the fields' random numbers apart from the crops'


@dataclasses.dataclass(frozen=True, slots=True)
class Palette:
    """Colours (RGB, 0-255) of one stain and camera, and how red cells look under it."""

    name: str
    plasma: tuple[int, int, int]
    red: tuple[int, int, int]
    red_rim: float
    """Extra absorption at a red cell's edge, as a share of the red cell's own."""
    pallor: tuple[float, float]
    """Range of the share of absorption missing at a red cell's centre."""
    red_density: tuple[float, float]
    """Red cells per square micrometre."""
    clear: tuple[int, int, int]
    """Cytoplasm of granulocytes."""
    blue: tuple[int, int, int]
    """Cytoplasm of lymphocytes and monocytes."""
    nucleus_dark: tuple[int, int, int]
    nucleus_light: tuple[int, int, int]
    orange: tuple[int, int, int]
    """Eosinophil granules."""
    violet: tuple[int, int, int]
    """Basophil granules, and dye specks."""
    pink: tuple[int, int, int]
    """Fine granules of neutrophils; platelets."""
    rim: float
    """Darkening of a leukocyte's edge."""
    blur_um: tuple[float, float]
    """Range of the defocus, standard deviation in micrometres."""


PALETTES: tuple[Palette, ...] = (
    Palette(
        "yellow", (253, 241, 150), (241, 222, 130), 2.0, (0.2, 0.9), (0.014, 0.026),
        (205, 158, 112), (178, 150, 118), (74, 14, 80), (150, 50, 86),
        (168, 70, 64), (66, 20, 84), (164, 92, 84), 0.38, (0.20, 0.34),
    ),
    Palette(
        "white", (252, 250, 252), (244, 214, 232), 1.0, (0.2, 0.8), (0.010, 0.022),
        (206, 128, 176), (176, 142, 196), (84, 20, 118), (132, 62, 154),
        (188, 70, 112), (78, 24, 122), (172, 84, 150), 0.16, (0.18, 0.30),
    ),
    Palette(
        "peach", (250, 226, 200), (214, 158, 162), 0.18, (0.1, 0.75), (0.018, 0.034),
        (222, 184, 188), (190, 174, 190), (74, 30, 128), (136, 84, 158),
        (194, 96, 112), (66, 22, 110), (182, 124, 160), 0.10, (0.12, 0.22),
    ),
    Palette(
        "mauve", (234, 208, 190), (176, 122, 138), 0.15, (0.1, 0.75), (0.022, 0.042),
        (196, 158, 176), (170, 154, 180), (80, 30, 124), (128, 68, 152),
        (190, 84, 112), (62, 18, 104), (160, 100, 148), 0.10, (0.12, 0.22),
    ),
    Palette(
        "rose", (222, 188, 176), (150, 104, 128), 0.10, (0.6, 1.0), (0.020, 0.036),
        (202, 146, 158), (198, 146, 168), (112, 16, 104), (168, 44, 124),
        (180, 92, 112), (92, 16, 92), (172, 100, 132), 0.08, (0.15, 0.26),
    ),
    Palette(
        "slate", (190, 176, 170), (122, 112, 138), 0.10, (0.6, 1.0), (0.020, 0.036),
        (180, 128, 152), (160, 126, 164), (78, 14, 98), (130, 40, 126),
        (152, 88, 120), (72, 18, 84), (146, 84, 126), 0.08, (0.15, 0.26),
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class FieldCell:
    """One leukocyte of a field.

    `centre` is (y, x) in pixels, `box` (y0, x0, y1, x1) in pixels, half open, within the image;
    `subtype` names the drawn form ("segmented", "band", "lobed", "kidney", ...).
    """

    label: int
    subtype: str
    centre: tuple[float, float]
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A drawn field: `image` uint8 [H, W, 3] RGB, `mask` uint8 [H, W] with 0 background,
    1 cytoplasm, 2 nucleus, its leukocytes, micrometres per pixel, and the palette's name."""

    image: np.ndarray
    mask: np.ndarray
    cells: tuple[FieldCell, ...]
    um_per_px: float
    palette: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A drawn crop around one leukocyte: `image` uint8 [S, S, 3] RGB, `mask` uint8 [S, S] with
    0 background, 1 cytoplasm, 2 nucleus, the cell's type, micrometres per pixel, the palette."""

    image: np.ndarray
    mask: np.ndarray
    label: int
    subtype: str
    um_per_px: float
    palette: str


def render_cell(seed: int, index: int, size: int = 96) -> Cell:
    """Draws crop `index` of the stream `seed`: one leukocyte near the centre of a square.

    A pure function of its arguments. The type is `index % 5`, so that types are balanced; the
    cell's diameter is 45 to 75 % of the side. A second leukocyte may reach into the crop, and is
    in the mask too.

    Args:
      seed: stream, at least 0.
      index: number of the crop within the stream, at least 0.
      size: side of the crop in pixels, at least 32. More pixels show the same field finer.

    Raises:
      ValueError: an argument is below its least value.
    """
    if seed < 0 or index < 0 or size < 32:
        raise ValueError(f"seed, index >= 0 and size >= 32 needed, got {seed}, {index}, {size}")
    rng = np.random.default_rng([seed, index])
    palette = PALETTES[rng.integers(len(PALETTES))]
    label = index % len(CELL_TYPES)
    low, high = _SHARE[label]
    plan = _plan(rng, label)
    side = 2 * plan.radius / rng.uniform(low, high)
    plans = [dataclasses.replace(plan, centre=tuple(side * (0.5 + rng.uniform(-0.04, 0.04, 2))))]
    if rng.random() < 0.1:
        other = _plan(rng, int(rng.integers(5)))
        angle = rng.uniform(0, 2 * np.pi)
        reach = plan.radius + other.radius + rng.uniform(-0.8, 1.5)
        away = (np.sin(angle) * reach, np.cos(angle) * reach)
        centre = (plans[0].centre[0] + away[0], plans[0].centre[1] + away[1])
        # First, so that the crop's own cell lies on top where the two overlap.
        plans.insert(0, dataclasses.replace(other, centre=centre))
    image, mask, _ = _draw(rng, plans, size, size, side / size, palette)
    return Cell(image, mask, label, plan.subtype, side / size, palette.name)


def render_field(
    seed: int,
    height: int,
    width: int,
    leukocytes: int,
    *,
    um_per_px: float = 0.2,
    palette: str | None = None,
) -> Field:
    """Draws a field of view with `leukocytes` white cells of random types among red cells.

    A pure function of its arguments. Leukocytes lie within the image and may touch or slightly
    overlap each other; the later in `cells` lies on top.

    Args:
      seed: at least 0.
      height, width: of the image, in pixels, at least 32.
      leukocytes: how many white cells, at least 0.
      um_per_px: magnification, micrometres per pixel, 0.05 to 1.
      palette: name of one of `PALETTES`; None draws one at random.

    Raises:
      ValueError: an argument is out of range, or the leukocytes do not fit into the field.
    """
    if seed < 0 or leukocytes < 0 or min(height, width) < 32 or not 0.05 <= um_per_px <= 1:
        raise ValueError(
            "seed, leukocytes >= 0, height, width >= 32 and um_per_px in [0.05, 1] needed, got "
            f"{seed}, {leukocytes}, {height}, {width}, {um_per_px}"
        )
    names = [known.name for known in PALETTES]
    if palette is not None and palette not in names:
        raise ValueError(f"no palette {palette!r}; there are {', '.join(names)}")
    rng = np.random.default_rng([seed, _FIELD_STREAM, height, width, leukocytes])
    drawn = int(rng.integers(len(PALETTES)))
    stain = PALETTES[drawn if palette is None else names.index(palette)]
    extent = np.array([height, width]) * um_per_px
    plans: list[_Plan] = []
    for _ in range(leukocytes):
        plan = _plan(rng, int(rng.integers(5)))
        for _ in range(200):
            centre = rng.uniform(0, 1, 2) * (extent - 2 * plan.radius) + plan.radius
            gaps = [
                np.hypot(*(centre - np.array(p.centre))) - p.radius - plan.radius for p in plans
            ]
            if min(gaps, default=1.0) > -0.8 and np.all(extent > 2 * plan.radius):
                plans.append(dataclasses.replace(plan, centre=(centre[0], centre[1])))
                break
        else:
            raise ValueError(f"{leukocytes} leukocytes do not fit into {height} x {width} pixels")
    image, mask, boxes = _draw(rng, plans, height, width, um_per_px, stain)
    cells = tuple(
        FieldCell(p.label, p.subtype, (p.centre[0] / um_per_px, p.centre[1] / um_per_px), box)
        for p, box in zip(plans, boxes)
    )
    return Field(image, mask, cells, um_per_px, stain.name)


# --- Forms ---------------------------------------------------------------------------------------

# Share of the crop's side that the cell's diameter takes, by type.
_SHARE = {
    BASOPHIL: (0.50, 0.66),
    EOSINOPHIL: (0.54, 0.70),
    LYMPHOCYTE: (0.46, 0.60),
    MONOCYTE: (0.58, 0.72),
    NEUTROPHIL: (0.52, 0.70),
}
# Radius of the cell in micrometres, by type.
_RADIUS = {
    BASOPHIL: (5.2, 6.8),
    EOSINOPHIL: (6.0, 7.6),
    LYMPHOCYTE: (4.2, 5.8),
    MONOCYTE: (7.0, 9.0),
    NEUTROPHIL: (5.8, 7.4),
}
_ROUGHNESS = {
    BASOPHIL: 0.045,
    EOSINOPHIL: 0.035,
    LYMPHOCYTE: 0.04,
    MONOCYTE: 0.055,
    NEUTROPHIL: 0.035,
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """The form of a leukocyte, before it is drawn. Lengths in micrometres, ellipses (y, x, half
    axes along and across, angle) in units of the radius."""

    label: int
    subtype: str
    radius: float
    centre: tuple[float, float]
    outline: tuple[complex, ...]
    ellipses: np.ndarray


def _plan(rng: np.random.Generator, label: int) -> _Plan:
    low, high = _RADIUS[label]
    order = np.arange(2, 10)
    size = rng.normal(0, _ROUGHNESS[label], order.size) * (2.0 / order) ** 0.9
    phase = rng.uniform(0, 2 * np.pi, order.size)
    subtype, ellipses = _NUCLEUS[label](rng)
    return _Plan(
        label=label,
        subtype=subtype,
        radius=rng.uniform(low, high),
        centre=(0.0, 0.0),
        outline=tuple(np.clip(size, -0.1, 0.1) * np.exp(1j * phase)),
        ellipses=_turned(np.asarray(ellipses, np.float64), rng.uniform(0, 2 * np.pi)),
    )


def _turned(ellipses: np.ndarray, angle: float) -> np.ndarray:
    y, x = ellipses[:, 0], ellipses[:, 1]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([cos * y + sin * x, cos * x - sin * y], axis=1)
    return np.concatenate([turned, ellipses[:, 2:4], ellipses[:, 4:] + angle], axis=1)


def _arc(rng, radius, span, half_width, count, swell=0.1):
    """Discs along an arc about the cell's centre: a sausage."""
    angles = np.linspace(-span / 2, span / 2, count)
    wave = np.cos(np.linspace(0, rng.uniform(4, 9), count) + rng.uniform(0, 6.3))
    width = half_width * (1 + swell * wave)
    radii = radius * (1 + 0.12 * np.cos(2 * angles + rng.uniform(0, 6.3)))
    return [(r * np.sin(a), r * np.cos(a), w, w, 0.0) for r, a, w in zip(radii, angles, width)]


def _lobes(rng, count, orbit, step, area, elongation, strand):
    """Lobes around the cell's centre, of `area` (share of the cell) in all, joined by strands."""
    shares = rng.uniform(0.75, 1.25, count)
    shares *= area / shares.sum()
    angles = (np.arange(count) - (count - 1) / 2) * step + rng.normal(0, 0.1, count)
    found = []
    for share, angle in zip(shares, angles):
        ratio = elongation * rng.uniform(0.85, 1.15)
        r = orbit * rng.uniform(0.85, 1.15)
        along, across = np.sqrt(share * ratio), np.sqrt(share / ratio)
        lean = np.pi / 2 - angle + rng.normal(0, 0.5)
        found.append((r * np.sin(angle), r * np.cos(angle), along, across, lean))
    joined = list(found)
    for one, two in itertools.pairwise(found):
        for t in np.linspace(0.2, 0.8, 7) if strand > 0 else ():
            pull = 1 + 0.25 * np.sin(np.pi * t)
            joined.append(
                (
                    pull * ((1 - t) * one[0] + t * two[0]),
                    pull * ((1 - t) * one[1] + t * two[1]),
                    strand,
                    strand,
                    0.0,
                )
            )
    return joined


def _neutrophil(rng):
    if rng.random() < 0.35:
        span = np.deg2rad(rng.uniform(170, 265))
        return "band", _arc(rng, rng.uniform(0.42, 0.50), span, rng.uniform(0.19, 0.24), 20)
    count = int(rng.choice([2, 3, 4, 5], p=[0.15, 0.45, 0.3, 0.1]))
    step = {2: 2.1, 3: 1.75, 4: 1.42, 5: 1.2}[count] * rng.uniform(0.92, 1.05)
    strand = rng.uniform(0.05, 0.10) if rng.random() < 0.8 else 0.0
    area = rng.uniform(0.30, 0.40)
    return "segmented", _lobes(rng, count, rng.uniform(0.46, 0.54), step, area, 1.45, strand)


def _eosinophil(rng):
    count = 2 if rng.random() < 0.85 else 3
    step = np.deg2rad(rng.uniform(105, 150)) if count == 2 else np.deg2rad(rng.uniform(85, 105))
    strand = rng.uniform(0.07, 0.13)
    orbit = rng.uniform(0.44, 0.54)
    return "lobed", _lobes(rng, count, orbit, step, rng.uniform(0.30, 0.40), 1.2, strand)


def _monocyte(rng):
    if rng.random() < 0.25:
        span = np.deg2rad(rng.uniform(190, 240))
        return "horseshoe", _arc(rng, rng.uniform(0.40, 0.46), span, rng.uniform(0.30, 0.34), 14)
    span = np.deg2rad(rng.uniform(140, 190))
    return "kidney", _arc(rng, rng.uniform(0.31, 0.38), span, rng.uniform(0.40, 0.46), 12, 0.06)


def _lymphocyte(rng):
    subtype, low, high = ("small", 0.84, 0.91) if rng.random() < 0.75 else ("large", 0.74, 0.82)
    size = rng.uniform(low, high)
    ratio = rng.uniform(1.0, 1.1)
    shift = rng.uniform(0.3, 1.0) * (0.95 - size)
    nucleus = [(shift, 0.0, size * ratio, size / ratio, rng.uniform(0, np.pi))]
    return subtype, nucleus


def _basophil(rng):
    count = int(rng.choice([2, 3], p=[0.6, 0.4]))
    area = rng.uniform(0.48, 0.58)
    step = np.deg2rad(rng.uniform(100, 130))
    return "lobed", _lobes(rng, count, rng.uniform(0.32, 0.40), step, area, 1.25, 0.2)


_NUCLEUS = {
    BASOPHIL: _basophil,
    EOSINOPHIL: _eosinophil,
    LYMPHOCYTE: _lymphocyte,
    MONOCYTE: _monocyte,
    NEUTROPHIL: _neutrophil,
}


# --- Drawing -------------------------------------------------------------------------------------


def _spline_rows(count: int, step: float, offset: float) -> np.ndarray:
    """Cubic B-spline weights [count, knots] of points one apart on knots `step` apart."""
    at = np.arange(count) / step + offset
    base = np.floor(at).astype(int)
    t = at - base
    rows = np.zeros((count, base[-1] + 4))
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, weight in enumerate(weights):
        rows[np.arange(count), base + k] = weight / 6
    return rows


def _noise(rng: np.random.Generator, height: int, width: int, step: float) -> np.ndarray:
    """Smooth noise [height, width], mean 0, deviation about 1, knots `step` samples apart."""
    offset = rng.uniform(0, 1, 2)
    down = _spline_rows(height, step, offset[0])
    across = _spline_rows(width, step, offset[1])
    knots = rng.standard_normal((down.shape[1], across.shape[1]))
    return ((down @ knots @ across.T) / 0.479).astype(np.float32)


def _colour(rng: np.random.Generator, rgb, spread: float = 4.0) -> np.ndarray:
    return (np.asarray(rgb) + rng.normal(0, spread, 3)).astype(np.float32)


class _Canvas:
    """The finely sampled field: colours, and how much of each sample is cell and nucleus."""

    def __init__(self, height: int, width: int, um_per_px: float, colour: np.ndarray):
        self.height, self.width = height * SUPERSAMPLE, width * SUPERSAMPLE
        self.step = um_per_px / SUPERSAMPLE
        self.plasma = colour
        self.colour = np.empty((self.height, self.width, 3), np.float32)
        self.colour[:] = colour
        self.cell = np.zeros((self.height, self.width), np.float32)
        self.nucleus = np.zeros((self.height, self.width), np.float32)

    def window(self, centre, reach: float):
        """Slices around a centre (micrometres) and the offsets from it there, or None."""
        y, x = centre[0] / self.step, centre[1] / self.step
        r = reach / self.step
        y0, y1 = max(0, int(y - r)), min(self.height, int(y + r) + 2)
        x0, x1 = max(0, int(x - r)), min(self.width, int(x + r) + 2)
        if y0 >= y1 or x0 >= x1:
            return None
        dy = ((np.arange(y0, y1, dtype=np.float32) + 0.5) * self.step - centre[0])[:, None]
        dx = ((np.arange(x0, x1, dtype=np.float32) + 0.5) * self.step - centre[1])[None, :]
        return (slice(y0, y1), slice(x0, x1)), dy.astype(np.float32), dx.astype(np.float32)


def _cover(depth: np.ndarray, soft: float) -> np.ndarray:
    """Coverage from the depth (micrometres) inside an edge `soft` micrometres wide."""
    return np.clip(depth / soft + 0.5, 0, 1).astype(np.float32)


def _draw(rng, plans, height, width, um_per_px, palette):
    """Draws plans; returns image, mask and the plans' boxes."""
    canvas = _Canvas(height, width, um_per_px, _colour(rng, palette.plasma, 3.0))
    mottle = _noise(rng, canvas.height, canvas.width, 6.0 / canvas.step)
    canvas.colour *= (1 + 0.012 * mottle)[..., None]
    _draw_red_cells(rng, canvas, plans, palette)
    _draw_platelets(rng, canvas, plans, palette)
    boxes = [_draw_leukocyte(rng, canvas, plan, palette) for plan in plans]

    def shrink(fine):
        parts = fine.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE, -1)
        return parts.mean(axis=(1, 3), dtype=np.float32)

    cell, nucleus = shrink(canvas.cell)[..., 0], shrink(canvas.nucleus)[..., 0]
    mask = np.zeros((height, width), np.uint8)
    mask[cell >= 0.5] = CYTOPLASM
    mask[nucleus >= 0.5] = NUCLEUS
    _fringe(rng, canvas.colour)
    return _sensor(rng, shrink(canvas.colour), um_per_px, palette), mask, boxes


def _draw_red_cells(rng, canvas, plans, palette):
    extent = np.array([canvas.height, canvas.width]) * canvas.step
    margin = 4.5
    area = np.prod(extent + 2 * margin)
    count = rng.poisson(area * rng.uniform(*palette.red_density))
    # One slide has one look: cells mostly paler at the centre, or mostly not.
    pallor = rng.uniform(*palette.pallor)
    absorb = 1 - _colour(rng, palette.red, 4.0) / canvas.plasma
    spacing = rng.uniform(0.55, 0.95)
    placed: list[tuple[float, float, float]] = []
    for _ in range(count):
        radius = rng.normal(3.6, 0.25)
        centre = rng.uniform(-margin, extent + margin)
        # Smears push red cells against leukocytes, rarely far under them.
        for plan in plans:
            away = centre - np.array(plan.centre)
            far = max(np.hypot(*away), 1e-3)
            least = plan.radius + radius - max(0.0, rng.normal(0.3, 0.7))
            if far < least:
                centre = centre + away / far * (least - far)
        if any(
            np.hypot(centre[0] - y, centre[1] - x) < spacing * (radius + r) for y, x, r in placed
        ):
            continue
        if any(np.hypot(*(centre - np.array(p.centre))) < p.radius + 0.5 * radius for p in plans):
            continue
        placed.append((centre[0], centre[1], radius))
        _draw_red_cell(rng, canvas, centre, radius, absorb, pallor, palette.red_rim)


def _draw_red_cell(rng, canvas, centre, radius, absorb, pallor, rim):
    found = canvas.window(centre, radius * 1.35)
    if found is None:
        return
    where, dy, dx = found
    angle, ratio = rng.uniform(0, np.pi), np.exp(abs(rng.normal(0, 0.09)))
    u = (np.cos(angle) * dy + np.sin(angle) * dx) / ratio
    v = (np.cos(angle) * dx - np.sin(angle) * dy) * ratio
    rho = np.sqrt(u * u + v * v) / radius
    bend = rng.normal(0, 0.035, 2)
    rho = rho * (1 + (bend[0] * (u * u - v * v) + bend[1] * u * v) / (u * u + v * v + 0.1))
    cover = _cover((1 - rho) * radius, 0.35)
    centre_pallor = np.clip(pallor + rng.normal(0, 0.12), 0, 1)
    width = rng.uniform(0.38, 0.6)
    thick = 1 - centre_pallor * np.exp(-((rho / width) ** 2) * 0.7)
    thick = thick + rim * np.exp(-(((rho - 0.93) / 0.07) ** 2))
    amount = (cover * thick * rng.normal(1, 0.06))[..., None]
    canvas.colour[where] *= np.clip(1 - amount * absorb, 0.05, 1.2)


def _draw_platelets(rng, canvas, plans, palette):
    extent = np.array([canvas.height, canvas.width]) * canvas.step
    count = rng.poisson(0.0022 * np.prod(extent))
    for _ in range(count):
        radius = rng.uniform(0.7, 1.5)
        centre = rng.uniform(0, extent)
        if any(np.hypot(*(centre - np.array(p.centre))) < p.radius + radius for p in plans):
            continue
        where, dy, dx = canvas.window(centre, radius * 1.6)
        shape = np.broadcast_shapes(dy.shape, dx.shape)
        rough = _noise(rng, *shape, 0.6 / canvas.step)
        depth = radius - np.sqrt(dy * dy * rng.uniform(0.7, 1.3) + dx * dx) + 0.2 * rough
        cover = _cover(depth, 0.4) * np.clip(0.6 + 0.25 * rough, 0.2, 0.95)
        _blend(canvas.colour[where], _colour(rng, palette.pink, 8), cover)
    for _ in range(rng.poisson(3) if rng.random() < 0.08 else 0):
        centre = rng.uniform(0, extent)
        radius = rng.uniform(0.2, 0.45)
        if any(np.hypot(*(centre - np.array(p.centre))) < p.radius + radius for p in plans):
            continue
        where, dy, dx = canvas.window(centre, radius * 2)
        cover = _cover(radius - np.sqrt(dy * dy + dx * dx), 0.3)
        _blend(canvas.colour[where], _colour(rng, palette.violet), 0.85 * cover)


def _blend(canvas: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
    canvas += cover[..., None] * (colour - canvas)


def _outline(plan: _Plan, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Depth inside the cell's outline, micrometres, positive inside."""
    rho = np.sqrt(dy * dy + dx * dx) + 1e-6
    turn = ((dx + 1j * dy) / rho).astype(np.complex64)
    reach = np.ones_like(rho)
    power = turn
    for wave in plan.outline:
        power = power * turn
        reach += power.real * np.float32(wave.real) + power.imag * np.float32(wave.imag)
    return plan.radius * reach - rho


def _nuclear_depth(rng, plan: _Plan, dy, dx, step: float) -> np.ndarray:
    """Depth inside the nucleus, micrometres, positive inside, before the cell bounds it."""
    shape = np.broadcast_shapes(dy.shape, dx.shape)
    sway = 0.05 if plan.label == LYMPHOCYTE else 0.07
    y = dy / plan.radius + sway * _noise(rng, *shape, 0.6 * plan.radius / step)
    x = dx / plan.radius + sway * _noise(rng, *shape, 0.6 * plan.radius / step)
    depth = np.full(shape, -9.0, np.float32)
    for cy, cx, along, across, angle in plan.ellipses.astype(np.float32):
        cos, sin = np.cos(angle), np.sin(angle)
        u = (cos * (x - cx) + sin * (y - cy)) / along
        v = (cos * (y - cy) - sin * (x - cx)) / across
        np.maximum(depth, (1 - np.sqrt(u * u + v * v)) * np.sqrt(along * across), out=depth)
    depth *= plan.radius
    return ndimage.gaussian_filter(depth, 0.14 / step, truncate=2.5)


def _granules(rng, place: np.ndarray, count: float, sigma: float) -> np.ndarray:
    """Coverage by about `count` specks, `sigma` samples wide, where `place` (a chance) allows."""
    dots = np.zeros(place.shape, np.float32)
    n = rng.poisson(count)
    y, x = rng.integers(0, place.shape[0], n), rng.integers(0, place.shape[1], n)
    keep = rng.random(n) < place[y, x]
    np.add.at(dots, (y[keep], x[keep]), rng.uniform(0.6, 1.4, keep.sum()).astype(np.float32))
    blobs = ndimage.gaussian_filter(dots, sigma, truncate=2.5) * np.float32(2 * np.pi * sigma**2)
    return np.clip(1.5 * blobs - 0.25, 0, 1)


def _draw_leukocyte(rng, canvas: _Canvas, plan: _Plan, palette: Palette):
    """Draws one leukocyte; returns its box in image pixels."""
    found = canvas.window(plan.centre, plan.radius * 1.35)
    if found is None:
        return (0, 0, 0, 0)
    where, dy, dx = found
    step = canvas.step
    shape = np.broadcast_shapes(dy.shape, dx.shape)
    label = plan.label
    depth = _outline(plan, dy, dx)
    cell = _cover(depth, max(0.25, step))
    # The nucleus never leaves the cell; where the two meet, the membrane flattens it.
    inner = np.minimum(_nuclear_depth(rng, plan, dy, dx, step), depth - 0.3)
    nucleus = _cover(inner, max(0.25, step))
    fine = _noise(rng, *shape, max(0.35 / step, 1.5))
    coarse = _noise(rng, *shape, 1.3 / step)

    base = _colour(rng, palette.blue if label in (LYMPHOCYTE, MONOCYTE) else palette.clear)
    # What lies under the cell shows through a little.
    below = canvas.colour[where] / canvas.plasma
    body = base * (1 + rng.uniform(0.15, 0.4) * (below - 1))
    body *= (1 + 0.03 * coarse + _GRAIN[label] * fine)[..., None]
    if label in (LYMPHOCYTE, MONOCYTE):
        # Basophilic cytoplasm: deeper outwards, a pale court by the nucleus.
        court = np.exp(-((np.clip(inner, -9, 0) / 0.9) ** 2))
        body += (rng.uniform(0.05, 0.2) * court)[..., None] * (canvas.plasma - body)
    rim = palette.rim * rng.uniform(0.6, 1.4) * np.exp(-((depth / 0.45) ** 2))
    body *= (1 - rim)[..., None]
    _draw_vacuoles(rng, body, label, plan, dy, dx, canvas.plasma)
    place = _cover(depth - 0.35, 0.5)
    whole = plan.radius**2 * 1.35**2 * 4  # square micrometres of the window
    if label == NEUTROPHIL:
        specks = _granules(rng, place, 1.6 * whole, max(0.16 / step, 0.7))
        _blend(body, _colour(rng, palette.pink), rng.uniform(0.15, 0.45) * specks)
    elif label == EOSINOPHIL:
        specks = _granules(rng, place, rng.uniform(2.0, 2.8) * whole, max(0.2 / step, 0.8))
        _blend(body, _colour(rng, palette.orange, 6), rng.uniform(0.65, 0.9) * specks)
    elif label == MONOCYTE:
        specks = _granules(rng, place, 0.8 * whole, max(0.14 / step, 0.7))
        _blend(body, _colour(rng, palette.pink), rng.uniform(0.1, 0.3) * specks)
    elif label == LYMPHOCYTE and plan.subtype == "large":
        specks = _granules(rng, place, 0.05 * whole, max(0.2 / step, 0.8))
        _blend(body, _colour(rng, palette.violet), 0.6 * specks)

    _draw_chromatin(rng, body, label, nucleus, inner, fine, coarse, step, palette)
    if label == BASOPHIL:
        specks = _granules(rng, place, rng.uniform(1.3, 2.6) * whole, max(0.21 / step, 0.8))
        thin = 1 - rng.uniform(0.1, 0.4) * nucleus
        _blend(body, _colour(rng, palette.violet), rng.uniform(0.75, 0.95) * specks * thin)

    canvas.colour[where] += cell[..., None] * (body - canvas.colour[where])
    np.maximum(canvas.cell[where], cell, out=canvas.cell[where])
    canvas.nucleus[where] += cell * (nucleus - canvas.nucleus[where])
    rows, columns = np.nonzero((cell >= 0.5).any(1))[0], np.nonzero((cell >= 0.5).any(0))[0]
    if not rows.size:
        return (0, 0, 0, 0)
    y0, x0 = where[0].start + rows[0], where[1].start + columns[0]
    y1, x1 = where[0].start + rows[-1] + 1, where[1].start + columns[-1] + 1
    up = SUPERSAMPLE
    return (int(y0 // up), int(x0 // up), int(-(-y1 // up)), int(-(-x1 // up)))


_GRAIN = {BASOPHIL: 0.03, EOSINOPHIL: 0.05, LYMPHOCYTE: 0.015, MONOCYTE: 0.035, NEUTROPHIL: 0.035}
_VACUOLES = {BASOPHIL: 1.0, EOSINOPHIL: 0.5, LYMPHOCYTE: 0.1, MONOCYTE: 2.0, NEUTROPHIL: 0.7}


def _draw_vacuoles(rng, body, label, plan, dy, dx, plasma):
    for _ in range(rng.poisson(_VACUOLES[label])):
        angle, r = rng.uniform(0, 2 * np.pi), plan.radius * rng.uniform(0.3, 0.9)
        size = rng.uniform(0.3, 0.7)
        far = np.sqrt((dy - r * np.sin(angle)) ** 2 + (dx - r * np.cos(angle)) ** 2)
        _blend(body, plasma, rng.uniform(0.4, 0.75) * _cover(size - far, 0.3))


def _draw_chromatin(rng, body, label, nucleus, inner, fine, coarse, step, palette):
    # Share of dense chromatin and how patchy it is: monocytes lacy, lymphocytes smudged,
    # granulocytes clumped.
    dense, patchy = {
        BASOPHIL: (0.45, 0.16),
        EOSINOPHIL: (0.55, 0.24),
        LYMPHOCYTE: (0.64, 0.24),
        MONOCYTE: (0.45, 0.30),
        NEUTROPHIL: (0.72, 0.24),
    }[label]
    dense += rng.normal(0, 0.1)
    clumps = _noise(rng, *fine.shape, 0.7 / step)
    share = dense + patchy * (0.8 * clumps + 0.8 * fine) + 0.06 * coarse
    share += 0.15 * np.exp(-((inner / 0.35) ** 2))
    share = np.clip(share, -0.25, 1.1)[..., None]
    dark, light = _colour(rng, palette.nucleus_dark), _colour(rng, palette.nucleus_light, 5)
    body += nucleus[..., None] * (light + share * (dark - light) - body)


# --- Optics and sensor ---------------------------------------------------------------------------


def _fringe(rng, colour: np.ndarray) -> None:
    """Shifts red and blue against green by half a pixel at most: lateral chromatic error."""
    for channel in (0, 2):
        down, across = rng.integers(-1, 2, 2) * (rng.random(2) < 0.3)
        plane = np.pad(colour[..., channel], 1, mode="edge")
        rows = slice(1 + down, 1 + down + colour.shape[0])
        colour[..., channel] = plane[rows, 1 + across : 1 + across + colour.shape[1]]


def _sensor(rng, image: np.ndarray, um_per_px: float, palette: Palette) -> np.ndarray:
    height, width = image.shape[:2]
    sigma = rng.uniform(*palette.blur_um) / um_per_px
    # Never so sharp that edges alias, whatever the magnification.
    image = ndimage.gaussian_filter(image, (max(sigma, 0.45), max(sigma, 0.45), 0), truncate=3)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    slope = rng.normal(0, 0.025, 2)
    light = 1 + slope[0] * y + slope[1] * x - rng.uniform(0, 0.04) * (y * y + x * x)
    gain = np.exp(rng.normal(0, 0.03) + rng.normal(0, 0.012, 3))
    image = image * light[..., None] * gain
    level = rng.uniform(1.0, 3.0)
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    grain = 0.6 * grain + 0.8 * rng.standard_normal((height, width, 1), dtype=np.float32)
    image = image + level * grain
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
