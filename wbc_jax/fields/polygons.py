"""Masks as polygons, for correction in other programs: GeoJSON (QuPath) and COCO.

Polygons run along the edges of pixels: pixel (0, 0) is the square from (0, 0) to (1, 1). Their area
is therefore exactly the number of pixels, and filling them gives the mask back.

No library traces the polygons, for these reasons. `rasterio.features.shapes` gives the same
polygons and takes half as long again, but installs 100 MB of GDAL. shapely's union of the pixels'
squares also gives them, 80 times slower. `skimage.measure.find_contours` cuts the corners of pixels
and `cv2.findContours` runs through their centers, so the area is not the number of pixels.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from wbc_jax.data import crops
from wbc_jax.fields.cells import Cell
from wbc_jax.labels import CELL_COLOR, CYTOPLASM, NUCLEUS, NUCLEUS_COLOR

Ring = list[tuple[int, int]]
"""Corners (x, y)."""
CELL = 3
CATEGORIES = {CYTOPLASM: "cytoplasm", NUCLEUS: "nucleus", CELL: "cell"}
"""Categories by their COCO id: the mask's values, and the whole cell."""
_COLORS = {"cell": CELL_COLOR, "nucleus": NUCLEUS_COLOR, "cytoplasm": (213, 94, 0)}
_NAMESPACE = uuid.UUID("5b1f4c1e-6f0e-4d0e-9a53-4c1d1cf0a5b7")


def polygons(mask: np.ndarray) -> list[list[Ring]]:
    """Returns the outlines of a region, one polygon per 4-connected piece.

    Args:
        mask: bool `[H, W]`.

    Returns:
        Polygons: the outer ring of a piece, followed by the rings of its holes. A ring is a list of
        corners (x, y) that does not repeat the first one at its end. On the screen (y downwards)
        outer rings run clockwise and holes counterclockwise. No ring touches itself.
    """
    pieces, count = ndimage.label(mask)
    found = []
    for number, place in enumerate(ndimage.find_objects(pieces, count), 1):
        rings = _rings(pieces[place] == number, place[1].start, place[0].start)
        found.append(sorted(rings, key=area, reverse=True))
    return found


def area(ring: Ring) -> float:
    """Returns a ring's area by the shoelace formula; negative for the ring of a hole."""
    x, y = np.array(ring, float).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _rings(region: np.ndarray, left: int, top: int) -> list[Ring]:
    """Traces the rings of one piece, with the piece always on the right-hand side.

    A ring turns at each of its corners, so it goes from corner to corner along rows and columns in
    turn. Along each row, and each column, the corners are the ends of sides, two by two. Where two
    pixels of the piece meet at a corner only, two rings meet: each keeps to its side of the ground,
    whose 4-connected parts have a ring each.

    Args:
        region: bool `[H, W]`, the piece.
        left, top: offsets that are added to the corners.
    """
    padded = np.pad(region, 1)
    # The pixels around each corner (y, x): above, below and before, after.
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    saddles = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero((a ^ b ^ c ^ d) | saddles)
    saddle, falls = saddles[y, x], a[y, x]  # falls: the pixels above, before and below, after
    right, down = (b != d)[y, x], (c != d)[y, x]  # the sides that meet at the corner
    right, down = right & ~saddle, np.where(saddle, falls, down)
    # The second ring of a saddle has the other two sides.
    y, x = np.append(y, y[saddle]), np.append(x, x[saddle])
    right, down = np.append(right, ~right[saddle]), np.append(down, ~down[saddle])
    along_row = _ends_of_sides(np.lexsort((right, x, y)))
    along_column = _ends_of_sides(np.lexsort((down, y, x)))
    below = d[y, x].tolist()
    points = list(zip((x + left).tolist(), (y + top).tolist()))
    rings, seen = [], [False] * len(points)
    for start in np.lexsort((x, y)).tolist():  # a ring's first corner is its upper left one
        if seen[start]:
            continue
        first, second = (along_row, along_column) if below[start] else (along_column, along_row)
        ring, one = [], start
        while not seen[one]:
            other = first[one]
            seen[one] = seen[other] = True
            ring += points[one], points[other]
            one = second[other]
        rings.append(ring)
    return rings


def _ends_of_sides(order: np.ndarray) -> list[int]:
    """Returns the other end of each corner's side, for corners that are ordered along lines."""
    others = np.empty_like(order)
    others[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    return others.tolist()


def without_holes(mask: np.ndarray) -> list[Ring]:
    """Returns outlines without holes that together cover a region, by cutting pieces with holes.

    Args:
        mask: bool `[H, W]`.
    """
    found = []
    for outer, *holes in polygons(mask):
        if not holes:
            found.append(outer)
            continue
        x, y = np.array(outer).T
        piece = fill([outer, *holes], (int(y.max()), int(x.max())))
        middle = (min(x for x, _ in holes[0]) + max(x for x, _ in holes[0])) // 2
        for half in (np.s_[:, :middle], np.s_[:, middle:]):
            cut = np.zeros_like(piece)
            cut[half] = piece[half]
            found += without_holes(cut)
    return found


def fill(rings: Sequence[Ring], size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels inside an odd number of rings, bool `[H, W]`.

    Args:
        rings: from `polygons`.
        size: height and width.
    """
    # At twice the size, corners have even coordinates and the centers of pixels odd ones.
    height, width = size
    inside = np.zeros(size, bool)
    for ring in rings:
        drawn = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
        cv2.fillPoly(drawn, [2 * np.array(ring, np.int32)], 1)
        inside ^= drawn[1::2, 1::2] > 0
    return inside


def _regions(cell: Cell) -> dict[int, np.ndarray]:
    """Returns the regions of a cell by category, without empty ones."""
    mask = cell.mask
    if mask is None:
        return {}
    regions = {CELL: mask > 0, NUCLEUS: mask == NUCLEUS, CYTOPLASM: mask == CYTOPLASM}
    return {category: region for category, region in regions.items() if region.any()}


def _shifted(ring: Ring, cell: Cell) -> list[list[int]]:
    """Converts a ring's corners from pixels of the cell's box to pixels of the image."""
    return [[x + cell.left, y + cell.top] for x, y in ring]


def identity(name: str, image: np.ndarray) -> str:
    """Returns a text that is another one for each image of one `--out`, and for other pixels.

    Args:
        name: stem of the image's results.
        image: uint8 `[H, W, 3]`.
    """
    return f"{name}/{hashlib.sha256(np.ascontiguousarray(image)).hexdigest()}"


def feature_id(image: str, cell: int, kind: str) -> str:
    """Returns the id of a cell's annotation in `geojson`.

    Args:
        image: from `identity`.
        cell: the cell's number.
        kind: one of `CATEGORIES`.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{image}/{cell}/{kind}"))


def geojson(cells: Sequence[Cell], image: str) -> dict[str, Any]:
    """Returns the cells of an image as a FeatureCollection that QuPath imports.

    Each cell has up to three annotations, classified as `cell`, `nucleus` and `cytoplasm`. Their
    name is the cell's number and type; the annotation of the whole cell has the measurements.
    Coordinates are pixels of the image, y downwards.

    Args:
        cells: the cells of one image.
        image: from `identity`; ids are derived from it, so they are the same in each call.
    """
    features = []
    for cell in cells:
        for category, region in _regions(cell).items():
            kind = CATEGORIES[category]
            shapes = [
                [[*_shifted(ring, cell), _shifted(ring[:1], cell)[0]] for ring in polygon]
                for polygon in polygons(region)
            ]
            one = len(shapes) == 1
            properties: dict[str, Any] = {
                "objectType": "annotation",
                "name": f"{cell.cell} {cell.type or kind}",
                "classification": {"name": kind, "color": list(_COLORS[kind])},
                "metadata": {"cell": str(cell.cell), "type": cell.type},
            }
            if category == CELL:
                properties["measurements"] = _measurements(cell)
            features.append(
                {
                    "type": "Feature",
                    "id": feature_id(image, cell.cell, kind),
                    "geometry": {
                        "type": "Polygon" if one else "MultiPolygon",
                        "coordinates": shapes[0] if one else shapes,
                    },
                    "properties": properties,
                }
            )
    return {"type": "FeatureCollection", "features": features}


def _measurements(cell: Cell) -> dict[str, float]:
    """Returns a cell's finite numbers by name; QuPath accepts no others."""
    numbers = {
        name: value
        for name, value in cell.row().items()
        if isinstance(value, int | float) and name not in ("cell", "top", "left", "bottom", "right")
    }
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def coco_part(file: str, size: tuple[int, int], cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns an image's part of a COCO file, for `coco`.

    COCO's polygons have no holes, so regions with holes are cut. Each annotation names its cell and
    type in `attributes`.

    Args:
        file: the image's name.
        size: its height and width in pixels.
        cells: its cells.
    """
    annotations = []
    for cell in cells:
        for category, region in _regions(cell).items():
            top, left, bottom, right = crops.bounding_box(region)
            annotations.append(
                {
                    "category_id": category,
                    "segmentation": [
                        [value for point in _shifted(ring, cell) for value in point]
                        for ring in without_holes(region)
                    ],
                    "area": int(region.sum()),
                    "bbox": [cell.left + left, cell.top + top, right - left, bottom - top],
                    "iscrowd": 0,
                    "attributes": {"cell": cell.cell, "type": cell.type},
                }
            )
    image = {"file_name": file, "height": size[0], "width": size[1]}
    return {"image": image, "annotations": annotations}


def coco(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the content of a COCO file, with `CATEGORIES` as categories.

    Args:
        parts: from `coco_part`, one an image.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        images.append({"id": number, **part["image"]})
        for annotation in part["annotations"]:
            about = {"id": len(annotations) + 1, "image_id": number}
            annotations.append(about | annotation)
    categories = [
        {"id": id, "name": name, "supercategory": "leukocyte"} for id, name in CATEGORIES.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
