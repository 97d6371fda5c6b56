"""Slides that OpenSlide reads: Hamamatsu NDPI, 3DHISTECH MRXS, Leica SCN, Ventana BIF, others."""

from __future__ import annotations

import os
import threading

import numpy as np
import openslide
import tifffile

from wbc_jax.data import image_metadata
from wbc_jax.data.image_opening import TIFF_STARTS
from wbc_jax.data.slide import Box, Damaged, Level, Slide
from wbc_jax.errors import DataError

_CACHE_BYTES = 2**26
_NDPI_FOCAL_PLANE = 65424
_OLD_TILE = 256
"""Side of a tile in pixels where the format states none."""


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads; what it did not scan is white."""

    def __init__(self, path: str):
        self.path = path
        self._check_companions()
        self._lock = threading.Lock()
        self._slide = self._opened()
        about = self._slide.properties
        self.kind = f"{about.get(openslide.PROPERTY_NAME_VENDOR, '')} (OpenSlide)"
        names = ("x", "y", "width", "height")
        bounds = [about.get(f"openslide.bounds-{name}") for name in names]
        width, height = self._slide.dimensions
        if None in bounds:
            bounds = [0, 0, width, height]
        self._left, self._top, width, height = map(int, bounds)
        self.levels = [
            Level(
                (max(1, round(height / factor)), max(1, round(width / factor))),
                tuple(
                    int(about.get(f"openslide.level[{n}].tile-{side}", _OLD_TILE))
                    for side in ("height", "width")
                ),
            )
            for n, factor in enumerate(self._slide.level_downsamples)
        ]
        self._size_of_pixel()

    def _check_companions(self) -> None:
        stem, ending = os.path.splitext(self.path)
        if ending.lower() == ".mrxs" and not os.path.isdir(stem):
            raise DataError(
                f"{self.path}: the folder {stem} is missing, which holds the slide's pixels: copy "
                "it beside the file"
            )
        if ending.lower() == ".ndpi":
            with open(self.path, "rb") as file:
                if file.read(4) not in TIFF_STARTS:
                    return
            with tifffile.TiffFile(self.path) as tif:
                planes = {
                    page.tags[_NDPI_FOCAL_PLANE].value
                    for page in tif.pages
                    if _NDPI_FOCAL_PLANE in page.tags
                }
            if len(planes) > 1:
                raise DataError(
                    f"{self.path}: has {len(planes)} focal planes: allowed is one; save one of "
                    "them, or their extended focus, as a slide"
                )

    def _opened(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise DataError(
                f"{self.path}: is named as a slide, but OpenSlide knows no format like it: copy it "
                "again, as it may be truncated; if it is the picture of the glass or its label "
                "that a scanner saves beside the slide, give the slide itself"
            ) from error
        except openslide.OpenSlideError as error:
            raise DataError(
                f"{self.path}: is truncated or damaged ({error}): copy it again"
            ) from error
        slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return slide

    def _size_of_pixel(self) -> None:
        about = self._slide.properties
        try:
            x, y = (float(about[f"openslide.mpp-{axis}"]) for axis in "xy")
        except (KeyError, ValueError):
            return
        if x > 0 and y > 0 and abs(x - y) <= image_metadata.ANISOTROPY * min(x, y):
            self.um_per_px, self.um_per_px_source = (x + y) / 2, "openslide"

    def _read(self, box: Box, level: int) -> np.ndarray:
        top, left, bottom, right = box
        factor = self._slide.level_downsamples[level]
        start = (self._left + round(left * factor), self._top + round(top * factor))
        try:
            with self._lock:
                picture = self._slide.read_region(start, level, (right - left, bottom - top))
        except openslide.OpenSlideError as error:
            # After an error OpenSlide refuses all that follows.
            with self._lock:
                self._slide.close()
                self._slide = self._opened()
            raise Damaged(error, box) from error
        pixels = np.array(picture)
        out = pixels[..., :3]
        out[pixels[..., 3] == 0] = 255
        return np.ascontiguousarray(out)

    def close(self) -> None:
        self._slide.close()
