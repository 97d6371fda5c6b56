"""Pictures of cells: masks drawn on images, thumbnails, contact sheets, and their encoding.

Colors are of Okabe and Ito's palette (Color Universal Design, 2008), which readers with any of the
common color-vision deficiencies can tell apart.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from wbc_jax import labels as labels_lib
from wbc_jax.labels import BACKGROUND, CELL_COLOR, IGNORE, NUCLEUS_COLOR

if TYPE_CHECKING:
    from wbc_jax.fields import analyze as fields

ERROR_COLOR = (213, 94, 0)
"""RGB of pixels whose predicted class is wrong."""
IGNORE_COLOR = ERROR_COLOR
"""RGB of the outline of pixels whose class is not known: visible on stain and on plasma alike."""
OUTLINE_COLORS = (CELL_COLOR, NUCLEUS_COLOR, IGNORE_COLOR)
"""All colors that `thumbnail` draws with."""

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, width_px: int = 0) -> np.ndarray:
    """Draws the outlines of cells and nuclei on an image.

    An outline is the innermost rim of its region: the region's pixels that share a side with a
    pixel known to lie outside. Where a region meets the image's border or pixels of unknown class,
    its edge is not known and none is drawn. The nucleus is drawn over the cell.

    Args:
        image: uint8 `[H, W, 3]` RGB, any size.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore.
        width_px: the outlines' width; 0: 1 px, and more on images larger than 400 px, so that
            they can still be seen when the whole image is on the screen.

    Returns:
        uint8 `[H, W, 3]`, a new array.

    Raises:
        ValueError: shapes or types do not fit, or the mask holds another value.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask must be uint8 {list(image.shape[:2])} as its image is, "
            f"not {mask.dtype} {list(mask.shape)}"
        )
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    strange = [int(v) for v in values if v > labels_lib.NUCLEUS and v != IGNORE]
    if strange:
        raise ValueError(f"mask holds {strange}; allowed are 0, 1, 2 and 255")
    if width_px < 0:
        raise ValueError(f"width_px is {width_px}; it must be 0 (automatic) or more")
    width_px = width_px or max(1, round(max(mask.shape, default=0) / 400))
    out = image.copy()
    rims = _rims(mask, width_px)
    out[rims == labels_lib.CYTOPLASM] = CELL_COLOR
    out[rims == labels_lib.NUCLEUS] = NUCLEUS_COLOR
    return out


def _rims(mask: np.ndarray, width_px: int) -> np.ndarray:
    """Marks the pixels to draw: uint8 `[H, W]`, 1 the cell's rim, 2 the nucleus's, else 0."""
    rims = np.zeros_like(mask)
    if mask.size:
        nucleus = mask == labels_lib.NUCLEUS
        cytoplasm = mask == labels_lib.CYTOPLASM
        background = mask == BACKGROUND
        rims[_rim(nucleus | cytoplasm, background, width_px)] = labels_lib.CYTOPLASM
        rims[_rim(nucleus, background | cytoplasm, width_px)] = labels_lib.NUCLEUS
    return rims


def _rim(inside: np.ndarray, outside: np.ndarray, width_px: int) -> np.ndarray:
    """Pixels of `inside` within `width_px` 4-connected steps of `outside`; bool `[H, W]`."""
    allowed = (inside | outside).astype(np.uint8)
    grown = outside.astype(np.uint8)
    for _ in range(width_px):
        grown = cv2.dilate(grown, _CROSS) & allowed
    return inside & (grown > 0)


def field_overlay(image: np.ndarray, field: fields.Field) -> np.ndarray:
    """As `overlay`, of a field with masks; also draws an outline between cells that touch."""
    mask, labels = field.mask.copy(), field.labels
    for one, other, place in (
        (labels[1:], labels[:-1], mask[1:]),
        (labels[:, 1:], labels[:, :-1], mask[:, 1:]),
    ):
        place[(one != other) & (one > 0) & (other > 0)] = BACKGROUND
    return overlay(image, mask)


def annotate(picture: np.ndarray, field: fields.Field) -> np.ndarray:
    """Writes each cell's number and type beside it; a crop around one cell stays as it is."""
    if field.one_cell:
        return picture
    picture = picture.copy()
    height, width = picture.shape[:2]
    size = max(0.4, min(height, width) / 1000)
    for cell in field.cells:
        text = f"{cell.cell} {cell.type}".strip()
        if cell.review:
            text = f"{cell.cell} {cell.best_guess}?"
        (text_width, ascent), descent = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        x = max(0, min(cell.left, width - text_width))
        # Above the cell, or below it where there is no room above.
        y = cell.top - descent if cell.top >= ascent + descent else cell.bottom + ascent + descent
        y = min(y, height - descent)
        # The white ground is the same text, shifted: thicker strokes would be set wider.
        for dx, dy in (*itertools.product((-1, 0, 1), repeat=2), (0, 0)):
            color = (255, 255, 255) if dx or dy else (20, 20, 20)
            cv2.putText(
                picture, text, (x + dx, y + dy), cv2.FONT_HERSHEY_SIMPLEX, size, color,
                1, cv2.LINE_AA,
            )  # fmt: skip
    return picture


def outline_layer(mask: np.ndarray, width_px: int) -> bytes:
    """Encodes the outlines that `overlay` draws as a PNG with a transparent ground.

    Args:
        mask: as in `overlay`.
        width_px: the outlines' width, 1 or more.
    """
    return _layer(_rims(mask, width_px), (CELL_COLOR, NUCLEUS_COLOR))


def error_layer(truth: np.ndarray, prediction: np.ndarray) -> bytes:
    """Encodes the wrongly predicted pixels of known class as a PNG with a transparent ground.

    Args:
        truth, prediction: uint8 `[H, W]`, as in `overlay`.
    """
    wrong = (truth != prediction) & (truth != IGNORE)
    return _layer(wrong.astype(np.uint8), (ERROR_COLOR,))


def _layer(index: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Encodes uint8 `[H, W]` as a palette PNG: 0 is transparent, k the k-th color."""
    picture = Image.fromarray(index).convert("L")
    picture.putpalette([0, 0, 0, *itertools.chain.from_iterable(colors)])
    return _encoded(picture, format="PNG", optimize=True, transparency=0)


def scaled_size(image: np.ndarray, longest: int) -> tuple[int, int]:
    """Returns the width and height at which the longer side has this many pixels."""
    scale = longest / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def resize(image: np.ndarray, longest: int) -> np.ndarray:
    """Resizes an image so that its longer side has this many pixels.

    Args:
        image: uint8 `[H, W, 3]`.
        longest: pixels.
    """
    shrinks = longest < max(image.shape[:2])
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, scaled_size(image, longest), interpolation=way)


def resize_mask(mask: np.ndarray, longest: int) -> np.ndarray:
    """As `resize`, of a mask `[H, W]`: each pixel takes the value of the nearest one."""
    size = scaled_size(mask, longest)
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def thumbnail(image: np.ndarray, mask: np.ndarray | None, longest: int) -> bytes:
    """Encodes a small picture of a record, with its outlines in exactly `OUTLINE_COLORS`.

    Args:
        image: uint8 `[H, W, 3]` RGB.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore; None: no outlines.
        longest: pixels of the longer side.

    Returns:
        A palette PNG.

    Raises:
        ValueError: the mask does not fit the image, or holds another value.
    """
    tile = resize(image, longest)
    colors = 256 - len(OUTLINE_COLORS)
    # The palette is made of the photograph alone, so that the outlines keep their exact colors.
    picture = _quantized(tile, colors)
    if mask is not None:
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"mask {list(mask.shape)} does not fit its image {list(image.shape[:2])}"
            )
        small = resize_mask(mask, longest)
        drawn = overlay(tile, small)
        unknown = small == IGNORE
        drawn[_rim(unknown, ~unknown, 1)] = IGNORE_COLOR
        palette = (picture.getpalette() or [])[: 3 * colors]
        first = len(palette) // 3
        places = np.array(picture)
        for number, color in enumerate(OUTLINE_COLORS):
            places[(drawn == color).all(axis=-1)] = first + number
        picture = Image.fromarray(places, "P")
        picture.putpalette([*palette, *itertools.chain.from_iterable(OUTLINE_COLORS)])
    return _encoded(picture, format="PNG", optimize=True)


def palette_png(image: np.ndarray) -> bytes:
    """Encodes uint8 `[H, W, 3]` as a PNG with a palette of 256 colors.

    It has a third of the size of one in full color; on one stained cell the loss is hard to see.
    """
    return _encoded(_quantized(image, 256), format="PNG", optimize=True)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 `[H, W, 3]` as a JPEG."""
    return _encoded(Image.fromarray(image), format="JPEG", quality=quality)


def _quantized(image: np.ndarray, colors: int) -> Image.Image:
    return Image.fromarray(image).quantize(colors, dither=Image.Dither.NONE)


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def contact_sheet(
    tiles: Sequence[np.ndarray], columns: int, pad: int = 4, background: int = 255
) -> np.ndarray:
    """Places images in a grid, row by row, each centered in a cell as large as the largest image.

    Args:
        tiles: uint8 `[h, w, 3]`, sizes may differ; at least one.
        columns: images a row.
        pad: pixels between neighbors and around the sheet.
        background: gray level of the space between images.

    Returns:
        uint8 `[H, W, 3]`. The last row is filled up with background; the sheet has no more columns
        than images.

    Raises:
        ValueError: no images, images of another kind, `columns` < 1 or `pad` < 0.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one image")
    if columns < 1 or pad < 0:
        raise ValueError(f"columns must be 1 or more and pad 0 or more, not {columns} and {pad}")
    for tile in tiles:
        if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
            raise ValueError(f"tiles must be uint8 [h, w, 3], not {tile.dtype} {list(tile.shape)}")
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    shape = (pad + rows * (height + pad), pad + columns * (width + pad), 3)
    sheet = np.full(shape, background, np.uint8)
    for place, tile in enumerate(tiles):
        h, w = tile.shape[:2]
        y = pad + place // columns * (height + pad) + (height - h) // 2
        x = pad + place % columns * (width + pad) + (width - w) // 2
        sheet[y : y + h, x : x + w] = tile
    return sheet
