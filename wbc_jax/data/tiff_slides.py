"""Slides in TIFF: Aperio SVS, tiled and pyramidal TIFF, OME-TIFF. tifffile decodes their tiles."""

from __future__ import annotations

import logging
import math
import threading
import types
from typing import Any

import numpy as np
import tifffile

from wbc_jax.data import image_metadata
from wbc_jax.data.slide import Box, Damaged, Level, Slide, check_axes, check_samples
from wbc_jax.errors import DataError

_SAME_SHAPE = 0.02
"""Levels of one slide differ by less in height divided by width, beside a pixel by rounding."""
_MAX_TILE_PIXELS = 2**26


class TiffSlide(Slide):
    def __init__(self, path: str):
        self.path = path
        # tifffile's own is none unless it is asked for.
        self._lock = threading.Lock()
        try:
            with _Complaints() as complaints:
                self._tif = tifffile.TiffFile(path)
                self._open()
        except (DataError, OSError):
            raise
        except Exception as error:  # damaged tags raise many kinds
            raise DataError(
                f"{path}: is a TIFF whose tags are truncated or damaged ({error}): copy it again"
            ) from error
        if complaints.said:
            self.notes += (
                f"{path}: is truncated or damaged, if not in its finest level "
                f"({complaints.said[0]}): copy it again",
            )

    def _open(self) -> None:
        tif = self._tif
        series = tif.series[0]
        check_axes(self.path, series.axes, series.shape)
        self._pages = [page.aspage() for page in pages(tif)]
        page = self._pages[0]
        kinds = {"Aperio SVS": tif.is_svs, "OME-TIFF": tif.is_ome, "tiled TIFF": True}
        self.kind = next(name for name, fits in kinds.items() if fits)
        if not page.is_tiled and (tif.is_svs or self.path.lower().endswith(".svs")):
            raise DataError(
                f"{self.path}: is named as a slide, but its largest picture has "
                f"{page.imagewidth} x {page.imagelength} pixels and no tiles; if it is the picture "
                "of the glass or its label, give the slide itself"
            )
        channels = page.samplesperpixel
        if "C" in series.axes:
            channels = series.shape[series.axes.index("C")]
        check_samples(self.path, channels, page.samplesperpixel >= 3, page.dtype)
        if page.planarconfig == 2:
            raise DataError(f"{self.path}: has a plane a color: save it with interleaved RGB")
        if (pixels := math.prod(_tile(page))) > _MAX_TILE_PIXELS:
            raise DataError(
                f"{self.path}: is stored in pieces of {pixels:,} pixels: allowed are up to "
                f"{_MAX_TILE_PIXELS:,}, as a piece is read at once; save it with tiles of 512 x 512"
            )
        self.levels = [Level((p.imagelength, p.imagewidth), _tile(p)) for p in self._pages]
        # What `image_metadata` reads of Pillow's images.
        tags = {tag.code: tag.value for tag in page.tags if tag.code in (282, 283, 296)}
        for code in (282, 283):
            if code in tags and tags[code][1]:
                tags[code] = tags[code][0] / tags[code][1]
        tags[270] = tif.pages[0].description
        size = image_metadata.pixel_size(
            self.path, types.SimpleNamespace(format="TIFF", tag_v2=tags)
        )
        self.um_per_px, self.um_per_px_source = size.um, size.source
        self.notes = (size.note,) if size.note else ()

    def _read(self, box: Box, level: int) -> np.ndarray:
        page = self._pages[level]
        top, left, bottom, right = box
        high, wide = self.levels[level].tile
        across = math.ceil(page.imagewidth / wide)
        out = np.empty((bottom - top, right - left, 3), np.uint8)
        for row in range(top // high, math.ceil(bottom / high)):
            for column in range(left // wide, math.ceil(right / wide)):
                y, x = row * high, column * wide
                tile = self._tile(page, row * across + column, (y, x, y + high, x + wide))
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + high, bottom), min(x + wide, right)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = tile[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return out

    def _tile(self, page: Any, index: int, box: Box) -> np.ndarray:
        """Returns a tile, uint8 `[h, w, 3]`."""
        file = self._tif.filehandle
        try:
            with self._lock:
                size = page.databytecounts[index]
                if not size:
                    raise ValueError("it holds no bytes")
                file.seek(page.dataoffsets[index])
                data = file.read(size)
                known = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            if len(data) < size:
                raise ValueError(f"{len(data)} of its {size} bytes are there")
            pixels, _, _ = page.decode(data, index, **known)
            if pixels is None:
                raise ValueError("it holds no pixels")
            return pixels[0, ..., :3]
        except Exception as error:  # decoders raise many kinds
            raise Damaged(error, box) from error

    def close(self) -> None:
        self._tif.close()


class _Complaints(logging.Handler):
    """Keeps what tifffile logs about a file."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> _Complaints:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)


def _tile(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def pixels(page: Any) -> int:
    return page.imagelength * page.imagewidth


def pages(tif: tifffile.TiffFile) -> list[Any]:
    """Returns the pages of a TIFF that show the same at ever coarser levels, the finest first."""
    series = tif.series[0]
    if len(series.levels) > 1:
        return [level.pages[0] for level in series.levels]
    if tif.is_ome or tif.is_svs:
        return [series.pages[0]]
    found = [max(tif.pages, key=pixels)]
    for page in sorted(tif.pages, key=pixels, reverse=True):
        height, width = found[0].imagelength, found[0].imagewidth
        factor = width / page.imagewidth
        alike = abs(page.imagelength * factor - height) <= _SAME_SHAPE * height + factor
        if page.is_tiled and alike and page.imagewidth < found[-1].imagewidth:
            found.append(page)
    return found
