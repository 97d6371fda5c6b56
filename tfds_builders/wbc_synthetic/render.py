"""Draws stained blood-smear fields, with exact masks, in NumPy and SciPy.

Everything is laid out in micrometers and drawn on a grid twice as fine as the image: the plasma,
the red cells, the platelets, then the leukocytes (cytoplasm, vacuoles, nucleus, granules), then
the optics (uneven light, fringes, defocus) and the sensor. A pixel's class is the one that covers
at least half of it, so image and mask come from the same coverage maps. All random numbers come
from one generator, seeded only by the caller's numbers.
"""

import dataclasses

import numpy as np

from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.wbc_synthetic import forms, painting
from wbc_jax.tfds_builders.wbc_synthetic.stains import PALETTES

__all__ = ["PALETTES", "Cell", "Field", "FieldCell", "render_cell", "render_field"]

_FIELD_STREAM = 0x51DE  # separates the random numbers of fields from those of crops


@dataclasses.dataclass(frozen=True, slots=True)
class FieldCell:
    """One leukocyte of a field.

    `center` is (y, x) in pixels, `box` (y0, x0, y1, x1) in pixels, half open, within the image;
    `subtype` names the drawn form ("segmented", "band", "lobed", "kidney", ...).
    """

    label: int
    subtype: str
    center: tuple[float, float]
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A drawn field: `image` uint8 [H, W, 3] RGB, `mask` uint8 [H, W] with 0 background,
    1 cytoplasm, 2 nucleus, its leukocytes, micrometers per pixel, and the palette's name."""

    image: np.ndarray
    mask: np.ndarray
    cells: tuple[FieldCell, ...]
    um_per_px: float
    palette: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A drawn crop around one leukocyte: `image` uint8 [S, S, 3] RGB, `mask` uint8 [S, S] with
    0 background, 1 cytoplasm, 2 nucleus, the cell's type, micrometers per pixel, the palette."""

    image: np.ndarray
    mask: np.ndarray
    label: int
    subtype: str
    um_per_px: float
    palette: str


def render_cell(seed: int, index: int, size: int = 96) -> Cell:
    """Draws crop `index` of the stream `seed`: one leukocyte near the center of a square.

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
    low, high = forms.SHARE[label]
    plan = forms.plan_cell(rng, label)
    side = 2 * plan.radius / rng.uniform(low, high)
    plans = [dataclasses.replace(plan, center=tuple(side * (0.5 + rng.uniform(-0.04, 0.04, 2))))]
    if rng.random() < 0.1:
        other = forms.plan_cell(rng, int(rng.integers(5)))
        angle = rng.uniform(0, 2 * np.pi)
        reach = plan.radius + other.radius + rng.uniform(-0.8, 1.5)
        away = (np.sin(angle) * reach, np.cos(angle) * reach)
        center = (plans[0].center[0] + away[0], plans[0].center[1] + away[1])
        # First, so that the crop's own cell lies on top where the two overlap.
        plans.insert(0, dataclasses.replace(other, center=center))
    image, mask, _ = painting.draw(rng, plans, size, size, side / size, palette)
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
      um_per_px: magnification, micrometers per pixel, 0.05 to 1.
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
    plans: list[forms.Plan] = []
    for _ in range(leukocytes):
        plan = forms.plan_cell(rng, int(rng.integers(5)))
        for _ in range(200):
            center = rng.uniform(0, 1, 2) * (extent - 2 * plan.radius) + plan.radius
            gaps = [
                np.hypot(*(center - np.array(p.center))) - p.radius - plan.radius for p in plans
            ]
            if min(gaps, default=1.0) > -0.8 and np.all(extent > 2 * plan.radius):
                plans.append(dataclasses.replace(plan, center=(center[0], center[1])))
                break
        else:
            raise ValueError(f"{leukocytes} leukocytes do not fit into {height} x {width} pixels")
    image, mask, boxes = painting.draw(rng, plans, height, width, um_per_px, stain)
    cells = tuple(
        FieldCell(p.label, p.subtype, (p.center[0] / um_per_px, p.center[1] / um_per_px), box)
        for p, box in zip(plans, boxes)
    )
    return Field(image, mask, cells, um_per_px, stain.name)
