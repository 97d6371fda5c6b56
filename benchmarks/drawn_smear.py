"""Draws a smear with known leukocytes, and writes it as a slide of any size that takes little room.

The smear is a tongue of patches on empty glass: the feathered edge, the thin part, in which red
cells lie side by side among leukocytes, and the thick part, in which red cells lie on each other.
Patches are of a few kinds and turned at random; tiles of glass all hold the same bytes.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import cv2
import numpy as np
import tifffile

from wbc_jax.tfds_builders.wbc_synthetic import forms, painting, stains

UM_PER_PX = 0.25
TILE = 512
FACTORS = (1, 4, 16)
"""Reductions of the slide's levels."""
PALETTE = next(palette for palette in stains.PALETTES if palette.name == "peach")
FEATHER, THIN, THICK = KINDS = ("feather", "thin", "thick")
VARIANTS = {FEATHER: 2, THIN: 4, THICK: 2}
"""Number of different patches of a kind."""
DENSITIES = {FEATHER: 0.0006, THIN: 0.009, THICK: 0.02}
"""Red cells per square micrometer; of each of the three layers of the thick part."""

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Patch:
    """A square of the smear: uint8 `[side, side, 3]`, and the boxes of its leukocytes."""

    image: np.ndarray
    boxes: list[Box]

    def turned(self, turns: int) -> "Patch":
        """Returns the patch after some quarter turns, counterclockwise."""
        image, boxes, side = self.image, self.boxes, len(self.image)
        for _ in range(turns):
            image = np.rot90(image)
            boxes = [(side - right, top, side - left, bottom) for top, left, bottom, right in boxes]
        return Patch(np.ascontiguousarray(image), boxes)


def draw_patch(kind: str, seed: int, side: int) -> Patch:
    """Draws a patch.

    Args:
        kind: one of `KINDS`.
        seed: for the places and forms of its cells.
        side: in pixels.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    density = DENSITIES[kind], DENSITIES[kind]
    palette = dataclasses.replace(PALETTE, red_density=density, pallor=(0.3, 0.3))
    plans: list[forms.Plan] = []
    wanted = round(side**2 / 1024**2 * (2 + seed % 3)) if kind == THIN else 0
    while len(plans) < wanted:
        plan = forms.plan_cell(rng, int(rng.integers(5)))
        # Whole, and apart from each other.
        center = rng.uniform(plan.radius + 2, side * UM_PER_PX - plan.radius - 2, 2)
        if all(math.dist(center, p.center) > plan.radius + p.radius + 4 for p in plans):
            plans.append(dataclasses.replace(plan, center=tuple(center)))
    glass, whole, boxes = np.array(PALETTE.plasma, float), 1.0, []
    for _ in range(3 if kind == THICK else 1):
        image, _, boxes = painting.draw(rng, plans, side, side, UM_PER_PX, palette)
        light = np.percentile(image.reshape(-1, 3), 98, axis=0)  # patches differ in it
        whole = whole * np.minimum(image / light, 1)
    return Patch((whole * glass).astype(np.uint8), [tuple(map(int, box)) for box in boxes])


class Smear:
    """A smear in the middle of a square slide.

    Args:
        side: of the slide in pixels.
        rows, columns: size of the smear in patches.
        patch: side of a patch in pixels, a multiple of the largest of `FACTORS`.
    """

    def __init__(self, side: int, rows: int = 20, columns: int = 48, patch: int = 1024):
        self.side, self.patch = side, patch
        self.top, self.left = ((side - n * patch) // 2 // TILE * TILE for n in (rows, columns))
        drawn = {
            (kind, number): draw_patch(kind, number, patch)
            for kind, many in VARIANTS.items()
            for number in range(many)
        }
        turned = functools.cache(lambda kind, number, turns: drawn[kind, number].turned(turns))
        rng, feather, thin = np.random.default_rng(0), max(1, columns // 16), columns * 5 // 8
        self.patches: dict[tuple[int, int], Patch] = {}
        for row in range(rows):
            # The end of the smear is round.
            start = round(columns / 8 * ((2 * row + 1 - rows) / rows) ** 2)
            for column in range(start, columns):
                far = column - start
                kind = FEATHER if far < feather else THIN if far < feather + thin else THICK
                variant = int(rng.integers(VARIANTS[kind])), int(rng.integers(4))
                self.patches[row, column] = turned(kind, *variant)

    @property
    def boxes(self) -> list[Box]:
        """Boxes of all leukocytes in pixels of the slide, (top, left, bottom, right)."""
        found = []
        for (row, column), patch in self.patches.items():
            moved = np.array([self.top + row * self.patch, self.left + column * self.patch] * 2)
            found += [tuple((moved + box).tolist()) for box in patch.boxes]
        return found

    def tiles(self, factor: int) -> Iterator[bytes]:
        """Yields the tiles of a level as JPEG, row by row."""
        small, length = self.patch // factor, math.ceil(self.side / factor)
        top, left = self.top // factor, self.left // factor
        # A little uneven, as no camera gives a tile of one color; smooth, so that it is small.
        rough = np.random.default_rng(1).uniform(-3, 3, (8, 8)).astype(np.float32)
        uneven = cv2.resize(rough, (TILE, TILE), interpolation=cv2.INTER_CUBIC)[..., None]
        bare = np.clip(np.array(PALETTE.plasma) + uneven, 0, 255).astype(np.uint8)
        glass = _jpeg(bare)

        @functools.cache
        def reduced(image_id: int) -> np.ndarray:
            return cv2.resize(images[image_id], (small, small), interpolation=cv2.INTER_AREA)

        images = {id(patch.image): patch.image for patch in self.patches.values()}
        for y, x in itertools.product(range(0, length, TILE), repeat=2):
            tile = None
            for row in range((y - top) // small, (y + TILE - 1 - top) // small + 1):
                for column in range((x - left) // small, (x + TILE - 1 - left) // small + 1):
                    if (row, column) not in self.patches:
                        continue
                    tile = bare.copy() if tile is None else tile
                    down, across = top + row * small - y, left + column * small - x
                    part = reduced(id(self.patches[row, column].image))
                    y0, x0 = max(down, 0), max(across, 0)
                    y1, x1 = min(down + small, TILE), min(across + small, TILE)
                    tile[y0:y1, x0:x1] = part[y0 - down : y1 - down, x0 - across : x1 - across]
            yield glass if tile is None else _jpeg(tile)

    def write(self, path: str) -> None:
        """Writes the slide as Aperio SVS."""
        size = f"{self.side}x{self.side}"
        text = f"Aperio Image Library v12.0.0\r\n{size} ({TILE}x{TILE}) JPEG|MPP = {UM_PER_PX}"
        with tifffile.TiffWriter(path, bigtiff=True) as tif:
            for factor in FACTORS:
                length = math.ceil(self.side / factor)
                tif.write(
                    self.tiles(factor), shape=(length, length, 3), dtype=np.uint8,
                    photometric="ycbcr", subsampling=(2, 2), tile=(TILE, TILE), compression="jpeg",
                    description=text, metadata=None,
                )  # fmt: skip
                if factor == 1:  # the second picture of an SVS is its thumbnail
                    small = np.full((256, 256, 3), PALETTE.plasma, np.uint8)
                    tif.write(small, photometric="rgb", description=text, metadata=None)


def _jpeg(tile: np.ndarray) -> bytes:
    bgr = np.ascontiguousarray(tile[..., ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
