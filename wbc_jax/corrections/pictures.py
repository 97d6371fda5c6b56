"""The pictures of a review: thumbnails, windows around cells, and whole fields.

They are cut from the images that `wbc_jax.predict` read. An image that has moved is looked for in
the folder that the person names; where it is gone or has changed, its overlay stands in, which
shows the cells but cannot be painted on.
"""

from __future__ import annotations

import collections
import json
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from wbc_jax.corrections.cells import Box, Cell, Results
from wbc_jax.data import crops
from wbc_jax.data.images import encode_png, read_image, read_with_metadata
from wbc_jax.errors import DataError
from wbc_jax.fields import polygons
from wbc_jax.report import overlays

THUMBNAIL_PX = 144
FIELD_PX = 1000
"""Longer sides of pictures."""
MOST_AT_ONCE = 64
"""Most thumbnails that are made for one that is asked for."""
CACHE_BYTES = 256 * 2**20
"""Most bytes of decoded images that are kept."""


class Image:
    """An image of the results.

    Attributes:
        pixels: uint8 `[H, W, 3]`; gray where nothing is left to show.
        problem: why these are not the pixels that were analyzed; empty if they are.
    """

    __slots__ = ("pixels", "problem")

    def __init__(self, pixels: np.ndarray, problem: str = ""):
        self.pixels, self.problem = pixels, problem


class Pictures:
    """Reads images and cuts pictures of cells; threads may share it.

    Args:
        results: the folder's.
        folder: where images lie that have moved; None: where they lay.
    """

    def __init__(self, results: Results, folder: epath.PathLike | None = None):
        self._results, self._folder = results, folder
        self._images: collections.OrderedDict[str, Image] = collections.OrderedDict()
        self._thumbnails: dict[int, bytes] = {}
        self._threads = threading.Lock()
        self._reading: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)

    def image(self, cell: Cell) -> Image:
        """Returns the image of a cell."""
        with self._threads:
            if found := self._images.get(cell.file):
                self._images.move_to_end(cell.file)
                return found
            reading = self._reading[cell.file]
        with reading:
            with self._threads:
                if found := self._images.get(cell.file):
                    return found
            found = self._read(cell)
            with self._threads:
                self._images[cell.file] = found
                held = sum(image.pixels.nbytes for image in self._images.values())
                while held > CACHE_BYTES and len(self._images) > 1:
                    held -= self._images.popitem(last=False)[1].pixels.nbytes
            return found

    def batches(
        self, cells: Sequence[Cell], count: int
    ) -> Iterator[tuple[list[tuple[str, list[int], np.ndarray]], list[tuple[str, int]]]]:
        """Reads the images of cells, each once, up to `count` at a time.

        Yields:
            (file, places of its cells in `cells`, pixels) of each image; and (why, number of its
            cells) of each since the batch before that cannot be used.
        """
        by_file: dict[str, list[int]] = {}
        for place, cell in enumerate(cells):
            by_file.setdefault(cell.file, []).append(place)
        good, bad = [], []
        for file, own in by_file.items():
            found = self.image(cells[own[0]])
            if found.problem:
                bad.append((found.problem, len(own)))
                continue
            good.append((file, own, found.pixels))
            if len(good) == count:
                yield good, bad
                good, bad = [], []
        if good or bad:
            yield good, bad

    def path(self, cell: Cell) -> str | None:
        """Returns where the image of a cell lies now; None if it is gone."""
        if os.path.isfile(cell.file):
            return cell.file
        if self._folder is not None:
            parts = cell.file.replace("\\", "/").split("/")
            # The longest end of the old path that exists under the folder.
            for start in range(len(parts)):
                ending = [part for part in parts[start:] if part not in ("", ".", "..")]
                path = os.path.join(self._folder, *ending)
                if ending and os.path.isfile(path):
                    return path
        return None

    def _read(self, cell: Cell) -> Image:
        path = self.path(cell)
        if path is None:
            remedy = "name the folder that it lies in now by --images=FOLDER"
            if self._folder is not None:
                remedy = f"it is not in --images={self._folder} either"
            return self._stand_in(cell, f"{cell.file} is gone: {remedy}.")
        try:
            pixels = read_with_metadata(path).pixels
        except DataError as error:
            return self._stand_in(cell, f"{error}.")
        size = cell.row["height"], cell.row["width"]
        if pixels.shape[:2] != size or not self._is_same(cell, pixels):
            return self._stand_in(
                cell,
                f"{path} has changed since it was predicted: put the old image back, or predict "
                "again.",
            )
        return Image(pixels)

    def _is_same(self, cell: Cell, pixels: np.ndarray) -> bool:
        """Compares an image with the one that was analyzed, whose hash is in the outlines' ids."""
        path = self._results.path / "geojson" / f"{cell.name}.geojson"
        try:
            first = json.loads(path.read_bytes())["features"][0]
            number = int(first["properties"]["metadata"]["cell"])
            kind = first["properties"]["classification"]["name"]
            known = first["id"]
        except (OSError, ValueError, LookupError, TypeError):
            return True  # no outlines: nothing to compare with
        return known == polygons.feature_id(polygons.identity(cell.name, pixels), number, kind)

    def _stand_in(self, cell: Cell, problem: str) -> Image:
        size = cell.row["height"], cell.row["width"]
        if overlay := cell.row["overlay"]:
            try:
                pixels = read_image(inside(self._results.path, overlay))
            except DataError:
                pixels = None
            if pixels is not None and pixels.shape[:2] == size:
                return Image(pixels, problem)
        return Image(np.full((*size, 3), 128, np.uint8), problem)

    def thumbnail(self, index: int) -> bytes:
        """Returns a small picture of a cell, JPEG."""
        with self._threads:
            if found := self._thumbnails.get(index):
                return found
        cell = self._results.cells[index]
        pixels = self.image(cell).pixels
        # An image is decoded once: all of its cells are cut at the same time, if they are not many.
        others = self._results.by_file[cell.file]
        made = {
            other.index: overlays.jpeg(
                overlays.resize(crops.cut(pixels, other.box), THUMBNAIL_PX), quality=85
            )
            for other in (others if len(others) <= MOST_AT_ONCE else [cell])
        }
        with self._threads:
            self._thumbnails |= made
        return made[index]

    def window(self, index: int, window: Box) -> bytes:
        """Returns a part of a cell's image in its own pixels, PNG."""
        top, left, bottom, right = window
        return encode_png(self.image(self._results.cells[index]).pixels[top:bottom, left:right])

    def field(self, index: int) -> bytes:
        """Returns the whole image of a cell, JPEG, at most `FIELD_PX` long."""
        pixels = self.image(self._results.cells[index]).pixels
        longest = min(FIELD_PX, max(pixels.shape[:2]))
        return overlays.jpeg(overlays.resize(pixels, longest), quality=88)


def inside(folder: epath.PathLike, name: str) -> str:
    """Returns the path of a file of a folder.

    Raises:
        DataError: the name leads out of the folder, perhaps by a link.
    """
    base = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(base, name))
    if os.path.commonpath([base, path]) != base or path == base:
        raise DataError(f"{name!r} leads out of {folder}, so it is not read: predict again.")
    return path
