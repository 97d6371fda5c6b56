"""Corrected masks: the window around a cell, and the PNG files that hold what a person painted.

A file of `DIR/corrections/masks/` holds one version of one cell's mask in one window of its image:
0 background, 1 cytoplasm, 2 nucleus, 255 where another cell lies. It is never replaced; a new
version is a new file, whose name ends in its hash, so that the log can go back to each.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax.corrections import log, pictures
from wbc_jax.corrections.cells import Box, Cell
from wbc_jax.data import crops
from wbc_jax.data.images import check_mask, decode_mask, encode_png
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS

FOLDER = f"{log.FOLDER}/masks"
MARGIN = 0.35
"""Share of a cell's longer side around its box, which a person may paint on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A corrected mask.

    Attributes:
        png: its file's path, relative to the folder of results.
        sha256: of that file.
        window: the part of the image that it covers, (top, left, bottom, right).
        nucleus_px, cytoplasm_px: areas.
    """

    png: str
    sha256: str
    window: Box
    nucleus_px: int
    cytoplasm_px: int

    def as_json(self) -> dict[str, Any]:
        """Returns the mask as the log holds it."""
        return dataclasses.asdict(self) | {"window": list(self.window)}


def encode(cell: Cell, window: Box, mask: np.ndarray) -> tuple[Saved, bytes]:
    """Returns a corrected mask, and the content of its file.

    Args:
        cell: the cell.
        window: what the mask covers.
        mask: uint8 `[H, W]`, as the module says.

    Raises:
        DataError: the mask has another size than its window, other values, or no cell.
    """
    top, left, bottom, right = window
    if mask.shape != (bottom - top, right - left):
        raise DataError(f"the mask is {list(mask.shape)}, but its window is {list(window)}")
    check_mask(mask)
    counts = [int((mask == value).sum()) for value in (NUCLEUS, CYTOPLASM)]
    if not any(counts):
        raise DataError(
            "nothing of the cell is left: a mask has a pixel of nucleus or cytoplasm. If there is "
            "no cell, say so by its type."
        )
    data = encode_png(mask)
    digest = hashlib.sha256(data).hexdigest()
    # Other windows may hold the same pixels, so their place is part of the name.
    place = f"{cell.name}_{cell.cell}_{top}_{left}_{digest[:12]}"
    return Saved(f"{FOLDER}/{place}.png", digest, window, *counts), data


def read(folder: epath.PathLike, saved: Mapping[str, Any]) -> np.ndarray:
    """Reads a corrected mask.

    Args:
        folder: the folder of results.
        saved: as in the log.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: the file is missing, has changed, or lies elsewhere.
    """
    path = epath.Path(pictures.inside(folder, saved["png"]))
    masks = pictures.inside(folder, FOLDER)
    if path.parent != epath.Path(masks):
        raise DataError(f"{path} is no corrected mask: those lie in {masks}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}, a mask that a person corrected, cannot be read ({error.strerror}): restore "
            "it, or correct the cell again."
        ) from error
    if hashlib.sha256(data).hexdigest() != saved["sha256"]:
        raise DataError(
            f"{path}, a mask that a person corrected, has changed since: restore it, or correct "
            "the cell again."
        )
    mask = decode_mask(data)
    top, left, bottom, right = saved["window"]
    if mask.shape != (bottom - top, right - left):
        raise DataError(f"{path} is {list(mask.shape)}, but its window is {saved['window']}.")
    return mask


def window(cell: Cell, others: Sequence[Box] = ()) -> Box:
    """Returns the part of its image in which a cell is painted: a square that holds its box.

    Args:
        cell: the cell.
        others: boxes that are to lie in it as well, such as that of an earlier correction.
    """
    height, width = cell.row["height"], cell.row["width"]
    found = crops.square_crop_box(cell.box, height, width, MARGIN)
    edges = list(zip(found, *others))
    top, left, bottom, right = (f(e) for f, e in zip((min, min, max, max), edges))
    return max(0, top), max(0, left), min(height, bottom), min(width, right)


def current(
    folder: epath.PathLike, cell: Cell, saved: Mapping[str, Any] | None, area: Box
) -> np.ndarray:
    """Returns the mask of a cell now.

    Args:
        folder: the folder of results.
        cell: the cell.
        saved: its correction, as in the log; None: that of the results.
        area: the part of the image to return.

    Returns:
        uint8 `[H, W]`, as the module says.

    Raises:
        DataError: as `read`; or a mask of the results is missing, or is not the image's.
    """
    top, left, bottom, right = area
    found = _predicted(folder, cell)[top:bottom, left:right].copy()
    if saved is None:
        return found
    # Where the correction says nothing, the cell is not.
    found[found != IGNORE] = BACKGROUND
    mask, place = read(folder, saved), saved["window"]
    y0, x0 = max(top, place[0]), max(left, place[1])
    y1, x1 = min(bottom, place[2]), min(right, place[3])
    if y0 < y1 and x0 < x1:
        part = mask[y0 - place[0] : y1 - place[0], x0 - place[1] : x1 - place[1]]
        found[y0 - top : y1 - top, x0 - left : x1 - left] = part
    return found


def _predicted(folder: epath.PathLike, cell: Cell) -> np.ndarray:
    """Returns the predicted mask of a cell in its whole image, uint8 `[H, W]`."""
    size = cell.row["height"], cell.row["width"]
    if not cell.row["mask"]:
        return np.zeros(size, np.uint8)
    mask, labels = _files(
        pictures.inside(folder, cell.row["mask"]),
        pictures.inside(folder, f"labels/{cell.name}.png"),
    )
    if mask.shape != size or labels.shape != size:
        raise DataError(f"the masks of {cell.file} in {folder} have another size: predict again.")
    found = np.where(labels == cell.cell, mask, BACKGROUND).astype(np.uint8)
    found[(labels != 0) & (labels != cell.cell)] = IGNORE
    return found


@functools.lru_cache(maxsize=8)
def _files(mask: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the mask and the cells' numbers of an image of the results."""
    found = [cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in (mask, labels)]
    for path, array in zip((mask, labels), found):
        if array is None or array.ndim != 2:
            raise DataError(f"{path} is missing or is no mask: predict again.")
    check_mask(found[0], mask)
    return found[0], found[1]
