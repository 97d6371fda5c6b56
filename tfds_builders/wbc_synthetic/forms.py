"""Forms of leukocytes: size, outline and nucleus, before anything is drawn."""

import dataclasses
import itertools

import numpy as np

BASOPHIL, EOSINOPHIL, LYMPHOCYTE, MONOCYTE, NEUTROPHIL = range(5)

SHARE = {
    BASOPHIL: (0.50, 0.66),
    EOSINOPHIL: (0.54, 0.70),
    LYMPHOCYTE: (0.46, 0.60),
    MONOCYTE: (0.58, 0.72),
    NEUTROPHIL: (0.52, 0.70),
}
"""Range of the cell's diameter as a share of the crop's side, by type."""

_RADIUS = {
    BASOPHIL: (5.2, 6.8),
    EOSINOPHIL: (6.0, 7.6),
    LYMPHOCYTE: (4.2, 5.8),
    MONOCYTE: (7.0, 9.0),
    NEUTROPHIL: (5.8, 7.4),
}
"""Range of the cell's radius in micrometers, by type."""

_ROUGHNESS = {
    BASOPHIL: 0.045,
    EOSINOPHIL: 0.035,
    LYMPHOCYTE: 0.04,
    MONOCYTE: 0.055,
    NEUTROPHIL: 0.035,
}
"""Standard deviation of the outline's waves, relative to the radius, by type."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The form of a leukocyte, before it is drawn.

    Attributes:
        label: index into `labels.CELL_TYPES`.
        subtype: the form's name.
        radius, center: in micrometers; the center is (y, x).
        outline: the waves of the outline, relative to the radius.
        ellipses: `[N, 5]`, whose union is the nucleus: y, x, half axes along and across, and angle,
            in units of the radius and radians.
    """

    label: int
    subtype: str
    radius: float
    center: tuple[float, float]
    outline: tuple[complex, ...]
    ellipses: np.ndarray


def plan_cell(rng: np.random.Generator, label: int) -> Plan:
    """Draws the form of a leukocyte of a type at random; its center is (0, 0)."""
    low, high = _RADIUS[label]
    order = np.arange(2, 10)
    size = rng.normal(0, _ROUGHNESS[label], order.size) * (2.0 / order) ** 0.9
    phase = rng.uniform(0, 2 * np.pi, order.size)
    subtype, ellipses = _NUCLEUS[label](rng)
    return Plan(
        label=label,
        subtype=subtype,
        radius=rng.uniform(low, high),
        center=(0.0, 0.0),
        outline=tuple(np.clip(size, -0.1, 0.1) * np.exp(1j * phase)),
        ellipses=_turned(np.asarray(ellipses, np.float64), rng.uniform(0, 2 * np.pi)),
    )


def _turned(ellipses: np.ndarray, angle: float) -> np.ndarray:
    y, x = ellipses[:, 0], ellipses[:, 1]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([cos * y + sin * x, cos * x - sin * y], axis=1)
    return np.concatenate([turned, ellipses[:, 2:4], ellipses[:, 4:] + angle], axis=1)


def _arc(rng, radius, span, half_width, count, swell=0.1):
    """Returns discs along an arc about the cell's center: a sausage."""
    angles = np.linspace(-span / 2, span / 2, count)
    wave = np.cos(np.linspace(0, rng.uniform(4, 9), count) + rng.uniform(0, 6.3))
    width = half_width * (1 + swell * wave)
    radii = radius * (1 + 0.12 * np.cos(2 * angles + rng.uniform(0, 6.3)))
    return [(r * np.sin(a), r * np.cos(a), w, w, 0.0) for r, a, w in zip(radii, angles, width)]


def _lobes(rng, count, orbit, step, area, elongation, strand):
    """Returns lobes around the cell's center, `area` (share of the cell) in all, and strands."""
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
