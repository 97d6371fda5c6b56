"""What all slides have in common, whatever their format: levels, parts of them, damaged tiles."""

from __future__ import annotations

import abc
import dataclasses
import math
import os
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax.errors import DataError

_BLOCK, _LEAST_BLOCK = 2048, 64
"""Side of the blocks that are read for an overview, in pixels; damaged ones are split as far."""
_ZARR_FILES = ("zarr.json", ".zattrs", ".zgroup")

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """A level of a slide: its size and that of its tiles, (height, width) in its own pixels."""

    size: tuple[int, int]
    tile: tuple[int, int]


class Slide(abc.ABC):
    """An open slide. Any thread may read.

    Attributes:
        path: the file or folder.
        kind: such as `Aperio SVS`.
        levels: the finest first.
        um_per_px: micrometers per pixel of the finest level that the file states, if a blood smear
            can have them; else None.
        um_per_px_source: where it is stated, as in `images.ImageFile`.
        notes: sentences for the log.
    """

    path: str
    kind: str
    levels: list[Level]
    um_per_px: float | None = None
    um_per_px_source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the finest level."""
        return self.levels[0].size

    def read(self, box: Box, level: int = 0) -> np.ndarray:
        """Reads a part of a level.

        Args:
            box: (top, left, bottom, right) in pixels of that level, within it.
            level: its number.

        Returns:
            uint8 `[bottom - top, right - left, 3]` RGB. What was not scanned is white.

        Raises:
            DataError: a tile is damaged; names its place on the slide.
            OSError: the slide is gone.
        """
        try:
            found = self._read(box, level)
        except Damaged as damage:
            self._raise_if_gone()
            factor = self.size[0] / self.levels[level].size[0]
            top, left, bottom, right = (round(side * factor) for side in damage.box)
            raise DataError(
                f"{self.path}: the tile at x {left} to {right}, y {top} to {bottom} is damaged "
                f"({damage}): copy the slide again, or scan it again"
            ) from damage
        self._raise_if_gone()
        return found

    @abc.abstractmethod
    def _read(self, box: Box, level: int) -> np.ndarray: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file."""

    def _raise_if_gone(self) -> None:
        with open(_first_file(self.path), "rb") as file:
            file.read(1)

    def overview(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a small picture of the slide, from a coarse level if there is one.

        Args:
            longest: number of pixels of its longer side at most.

        Returns:
            uint8 `[h, w, 3]` RGB, and bool `[h, w]`: pixels that could not be read; they are gray.

        Raises:
            OSError: the slide is gone.
        """
        level = self.overview_level(longest)
        height, width = self.levels[level].size
        factor = max(1, math.ceil(max(height, width) / longest))
        small = (math.ceil(height / factor), math.ceil(width / factor))
        picture = np.full((*small, 3), 128, np.uint8)
        unread = np.zeros(small, bool)

        def fill(top: int, left: int, bottom: int, right: int) -> None:
            place = np.s_[top:bottom, left:right]
            end = (min(bottom * factor, height), min(right * factor, width))
            try:
                block = self.read((top * factor, left * factor, *end), level)
            except DataError:
                if max(bottom - top, right - left) * factor <= _LEAST_BLOCK or bottom - top == 1:
                    unread[place] = True
                    return
                y, x = (top + bottom) // 2, (left + right + 1) // 2
                for part in ((top, left, y, x), (top, x, y, right), (y, left, bottom, x),
                             (y, x, bottom, right)):  # fmt: skip
                    if part[0] < part[2] and part[1] < part[3]:
                        fill(*part)
                return
            size = (right - left, bottom - top)
            picture[place] = cv2.resize(block, size, interpolation=cv2.INTER_AREA)

        step = max(1, _BLOCK // factor)
        for y in range(0, small[0], step):
            for x in range(0, small[1], step):
                fill(y, x, min(y + step, small[0]), min(x + step, small[1]))
        return picture, unread

    def overview_level(self, longest: int) -> int:
        """Returns the level that `overview` reads: the coarsest that is large enough."""
        fine = [i for i, level in enumerate(self.levels) if max(level.size) >= longest]
        return max(fine, default=0)


class Damaged(Exception):
    """A part of a level cannot be decoded; `box` is its place in pixels of that level."""

    def __init__(self, why: object, box: Box):
        super().__init__(str(why) or type(why).__name__)
        self.box = box


def is_zarr(folder: epath.PathLike) -> bool:
    """Returns whether a folder is a Zarr."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in _ZARR_FILES)


def state(path: str) -> tuple[int, int]:
    """Returns size and time of change of a slide's file, or of the first file of its folder."""
    found = os.stat(_first_file(path))
    return found.st_size, found.st_mtime_ns


def _first_file(path: str) -> str:
    if not os.path.isdir(path):
        return path
    names = (os.path.join(path, name) for name in _ZARR_FILES)
    return next((name for name in names if os.path.exists(name)), os.path.join(path, ".zattrs"))


def check_samples(path: str, channels: int, is_rgb: bool, dtype: Any) -> None:
    """Checks that pixels are 8-bit RGB.

    Raises:
        DataError: they are not.
    """
    if np.dtype(dtype) != np.uint8:
        raise DataError(f"{path}: has samples of {dtype}: allowed are slides of 8 bits a sample")
    if not is_rgb:
        raise DataError(
            f"{path}: has {channels} channels: allowed is RGB, as cells are found by the color of "
            "their stain, which fluorescence channels do not show"
        )


def check_axes(path: str, axes: str, shape: tuple[int, ...]) -> None:
    """Checks that a slide has one focal plane and one time.

    Raises:
        DataError: it has more.
    """
    for axis, length in zip(axes.lower(), shape):
        name = {"z": "focal planes", "t": "times"}.get(axis, "pictures")
        if axis not in "cyxs" and length > 1:
            raise DataError(
                f"{path}: has {length} {name}: allowed is one; save one of them, or their extended "
                "focus, as a slide"
            )
