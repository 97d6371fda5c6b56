"""Drawing planned cells: red cells, platelets, leukocytes, then the optics and the sensor."""

import numpy as np
from scipy import ndimage

from wbc_jax.labels import CYTOPLASM, NUCLEUS
from wbc_jax.tfds_builders.wbc_synthetic.forms import (
    BASOPHIL,
    EOSINOPHIL,
    LYMPHOCYTE,
    MONOCYTE,
    NEUTROPHIL,
    Plan,
)
from wbc_jax.tfds_builders.wbc_synthetic.stains import Palette

SUPERSAMPLE = 2


def _spline_rows(count: int, step: float, offset: float) -> np.ndarray:
    """Returns cubic B-spline weights [count, knots] of points one apart on knots `step` apart."""
    at = np.arange(count) / step + offset
    base = np.floor(at).astype(int)
    t = at - base
    rows = np.zeros((count, base[-1] + 4))
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, weight in enumerate(weights):
        rows[np.arange(count), base + k] = weight / 6
    return rows


def _noise(rng: np.random.Generator, height: int, width: int, step: float) -> np.ndarray:
    """Returns smooth noise [height, width] of mean 0 and deviation about 1.

    `step` is the distance of its knots in samples.
    """
    offset = rng.uniform(0, 1, 2)
    down = _spline_rows(height, step, offset[0])
    across = _spline_rows(width, step, offset[1])
    knots = rng.standard_normal((down.shape[1], across.shape[1]))
    return ((down @ knots @ across.T) / 0.479).astype(np.float32)


def _color(rng: np.random.Generator, rgb, spread: float = 4.0) -> np.ndarray:
    return (np.asarray(rgb) + rng.normal(0, spread, 3)).astype(np.float32)


class _Canvas:
    """The finely sampled field: colors, and the coverage of each sample by cell and nucleus."""

    def __init__(self, height: int, width: int, um_per_px: float, color: np.ndarray):
        self.height, self.width = height * SUPERSAMPLE, width * SUPERSAMPLE
        self.step = um_per_px / SUPERSAMPLE
        self.plasma = color
        self.color = np.empty((self.height, self.width, 3), np.float32)
        self.color[:] = color
        self.cell = np.zeros((self.height, self.width), np.float32)
        self.nucleus = np.zeros((self.height, self.width), np.float32)

    def window(self, center, reach: float):
        """Returns slices around a center (micrometers) and the offsets from it; None: outside."""
        y, x = center[0] / self.step, center[1] / self.step
        r = reach / self.step
        y0, y1 = max(0, int(y - r)), min(self.height, int(y + r) + 2)
        x0, x1 = max(0, int(x - r)), min(self.width, int(x + r) + 2)
        if y0 >= y1 or x0 >= x1:
            return None
        dy = ((np.arange(y0, y1, dtype=np.float32) + 0.5) * self.step - center[0])[:, None]
        dx = ((np.arange(x0, x1, dtype=np.float32) + 0.5) * self.step - center[1])[None, :]
        return (slice(y0, y1), slice(x0, x1)), dy.astype(np.float32), dx.astype(np.float32)


def _cover(depth: np.ndarray, soft: float) -> np.ndarray:
    """Returns the coverage at a depth (micrometers) inside an edge `soft` micrometers wide."""
    return np.clip(depth / soft + 0.5, 0, 1).astype(np.float32)


def draw(rng, plans, height, width, um_per_px, palette):
    """Draws the plans, the last on top; returns image, mask and the plans' boxes."""
    canvas = _Canvas(height, width, um_per_px, _color(rng, palette.plasma, 3.0))
    mottle = _noise(rng, canvas.height, canvas.width, 6.0 / canvas.step)
    canvas.color *= (1 + 0.012 * mottle)[..., None]
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
    _fringe(rng, canvas.color)
    return _sensor(rng, shrink(canvas.color), um_per_px, palette), mask, boxes


def _draw_red_cells(rng, canvas, plans, palette):
    extent = np.array([canvas.height, canvas.width]) * canvas.step
    margin = 4.5
    area = np.prod(extent + 2 * margin)
    count = rng.poisson(area * rng.uniform(*palette.red_density))
    # On one slide, red cells are either mostly paler at the center, or mostly not.
    pallor = rng.uniform(*palette.pallor)
    absorb = 1 - _color(rng, palette.red, 4.0) / canvas.plasma
    spacing = rng.uniform(0.55, 0.95)
    placed: list[tuple[float, float, float]] = []
    for _ in range(count):
        radius = rng.normal(3.6, 0.25)
        center = rng.uniform(-margin, extent + margin)
        # Smears push red cells against leukocytes, rarely far under them.
        for plan in plans:
            away = center - np.array(plan.center)
            far = max(np.hypot(*away), 1e-3)
            least = plan.radius + radius - max(0.0, rng.normal(0.3, 0.7))
            if far < least:
                center = center + away / far * (least - far)
        if any(
            np.hypot(center[0] - y, center[1] - x) < spacing * (radius + r) for y, x, r in placed
        ):
            continue
        if any(np.hypot(*(center - np.array(p.center))) < p.radius + 0.5 * radius for p in plans):
            continue
        placed.append((center[0], center[1], radius))
        _draw_red_cell(rng, canvas, center, radius, absorb, pallor, palette.red_rim)


def _draw_red_cell(rng, canvas, center, radius, absorb, pallor, rim):
    found = canvas.window(center, radius * 1.35)
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
    center_pallor = np.clip(pallor + rng.normal(0, 0.12), 0, 1)
    width = rng.uniform(0.38, 0.6)
    thick = 1 - center_pallor * np.exp(-((rho / width) ** 2) * 0.7)
    thick = thick + rim * np.exp(-(((rho - 0.93) / 0.07) ** 2))
    amount = (cover * thick * rng.normal(1, 0.06))[..., None]
    canvas.color[where] *= np.clip(1 - amount * absorb, 0.05, 1.2)


def _draw_platelets(rng, canvas, plans, palette):
    extent = np.array([canvas.height, canvas.width]) * canvas.step
    count = rng.poisson(0.0022 * np.prod(extent))
    for _ in range(count):
        radius = rng.uniform(0.7, 1.5)
        center = rng.uniform(0, extent)
        if any(np.hypot(*(center - np.array(p.center))) < p.radius + radius for p in plans):
            continue
        where, dy, dx = canvas.window(center, radius * 1.6)
        shape = np.broadcast_shapes(dy.shape, dx.shape)
        rough = _noise(rng, *shape, 0.6 / canvas.step)
        depth = radius - np.sqrt(dy * dy * rng.uniform(0.7, 1.3) + dx * dx) + 0.2 * rough
        cover = _cover(depth, 0.4) * np.clip(0.6 + 0.25 * rough, 0.2, 0.95)
        _blend(canvas.color[where], _color(rng, palette.pink, 8), cover)
    for _ in range(rng.poisson(3) if rng.random() < 0.08 else 0):
        center = rng.uniform(0, extent)
        radius = rng.uniform(0.2, 0.45)
        if any(np.hypot(*(center - np.array(p.center))) < p.radius + radius for p in plans):
            continue
        where, dy, dx = canvas.window(center, radius * 2)
        cover = _cover(radius - np.sqrt(dy * dy + dx * dx), 0.3)
        _blend(canvas.color[where], _color(rng, palette.violet), 0.85 * cover)


def _blend(canvas: np.ndarray, color: np.ndarray, cover: np.ndarray) -> None:
    canvas += cover[..., None] * (color - canvas)


def _outline(plan: Plan, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Returns the depth inside the cell's outline in micrometers, positive inside."""
    rho = np.sqrt(dy * dy + dx * dx) + 1e-6
    turn = ((dx + 1j * dy) / rho).astype(np.complex64)
    reach = np.ones_like(rho)
    power = turn
    for wave in plan.outline:
        power = power * turn
        reach += power.real * np.float32(wave.real) + power.imag * np.float32(wave.imag)
    return plan.radius * reach - rho


def _nuclear_depth(rng, plan: Plan, dy, dx, step: float) -> np.ndarray:
    """Returns the depth inside the nucleus in micrometers, before the cell bounds it."""
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
    """Returns the coverage by about `count` specks, `sigma` samples wide.

    `place` is the probability of a speck at each sample.
    """
    dots = np.zeros(place.shape, np.float32)
    n = rng.poisson(count)
    y, x = rng.integers(0, place.shape[0], n), rng.integers(0, place.shape[1], n)
    keep = rng.random(n) < place[y, x]
    np.add.at(dots, (y[keep], x[keep]), rng.uniform(0.6, 1.4, keep.sum()).astype(np.float32))
    blobs = ndimage.gaussian_filter(dots, sigma, truncate=2.5) * np.float32(2 * np.pi * sigma**2)
    return np.clip(1.5 * blobs - 0.25, 0, 1)


def _draw_leukocyte(rng, canvas: _Canvas, plan: Plan, palette: Palette):
    """Draws one leukocyte; returns its box in image pixels."""
    found = canvas.window(plan.center, plan.radius * 1.35)
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

    base = _color(rng, palette.blue if label in (LYMPHOCYTE, MONOCYTE) else palette.clear)
    # What lies under the cell shows through a little.
    below = canvas.color[where] / canvas.plasma
    body = base * (1 + rng.uniform(0.15, 0.4) * (below - 1))
    body *= (1 + 0.03 * coarse + _GRAIN[label] * fine)[..., None]
    if label in (LYMPHOCYTE, MONOCYTE):
        # Basophilic cytoplasm: deeper outwards, a pale halo by the nucleus.
        court = np.exp(-((np.clip(inner, -9, 0) / 0.9) ** 2))
        body += (rng.uniform(0.05, 0.2) * court)[..., None] * (canvas.plasma - body)
    rim = palette.rim * rng.uniform(0.6, 1.4) * np.exp(-((depth / 0.45) ** 2))
    body *= (1 - rim)[..., None]
    _draw_vacuoles(rng, body, label, plan, dy, dx, canvas.plasma)
    place = _cover(depth - 0.35, 0.5)
    whole = plan.radius**2 * 1.35**2 * 4  # square micrometers of the window
    if label == NEUTROPHIL:
        specks = _granules(rng, place, 1.6 * whole, max(0.16 / step, 0.7))
        _blend(body, _color(rng, palette.pink), rng.uniform(0.15, 0.45) * specks)
    elif label == EOSINOPHIL:
        specks = _granules(rng, place, rng.uniform(2.0, 2.8) * whole, max(0.2 / step, 0.8))
        _blend(body, _color(rng, palette.orange, 6), rng.uniform(0.65, 0.9) * specks)
    elif label == MONOCYTE:
        specks = _granules(rng, place, 0.8 * whole, max(0.14 / step, 0.7))
        _blend(body, _color(rng, palette.pink), rng.uniform(0.1, 0.3) * specks)
    elif label == LYMPHOCYTE and plan.subtype == "large":
        specks = _granules(rng, place, 0.05 * whole, max(0.2 / step, 0.8))
        _blend(body, _color(rng, palette.violet), 0.6 * specks)

    _draw_chromatin(rng, body, label, nucleus, inner, fine, coarse, step, palette)
    if label == BASOPHIL:
        specks = _granules(rng, place, rng.uniform(1.3, 2.6) * whole, max(0.21 / step, 0.8))
        thin = 1 - rng.uniform(0.1, 0.4) * nucleus
        _blend(body, _color(rng, palette.violet), rng.uniform(0.75, 0.95) * specks * thin)

    canvas.color[where] += cell[..., None] * (body - canvas.color[where])
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
    dark, light = _color(rng, palette.nucleus_dark), _color(rng, palette.nucleus_light, 5)
    body += nucleus[..., None] * (light + share * (dark - light) - body)


def _fringe(rng, color: np.ndarray) -> None:
    """Shifts red and blue against green by half a pixel at most: lateral chromatic error."""
    for channel in (0, 2):
        down, across = rng.integers(-1, 2, 2) * (rng.random(2) < 0.3)
        plane = np.pad(color[..., channel], 1, mode="edge")
        rows = slice(1 + down, 1 + down + color.shape[0])
        color[..., channel] = plane[rows, 1 + across : 1 + across + color.shape[1]]


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
